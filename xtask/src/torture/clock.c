/* A wall clock that can be set: preloaded into every process of the torture's namespace, it adds what stands in a
 * shared file (nanoseconds, a signed 64-bit number) to the wall time, and to nothing else. Boot time and monotonic time
 * stay as they are, as they do where an administrator or ntpd sets the clock of a machine.
 *
 * The kernel's own times (of files) aren't shifted: the torture reads service-hours off those. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifndef CLOCK_FILE
#error "CLOCK_FILE is the path of the shared file"
#endif

static const volatile int64_t *offset;

__attribute__((constructor)) static void open_clock(void) {
    int fd = open(CLOCK_FILE, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) offset = page;
    close(fd);
}

static void shift(struct timespec *at) {
    if (!offset) return;
    __int128 nanos = (__int128)at->tv_sec * 1000000000 + at->tv_nsec + *offset;
    at->tv_sec = (time_t)(nanos / 1000000000);
    at->tv_nsec = (long)(nanos % 1000000000);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = (int)syscall(SYS_clock_gettime, clock, at);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) shift(at);
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return (time_t)-1;
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

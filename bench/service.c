/* The service of the benchmark: as little of a program as can still be a service, so that what is measured is the
 * supervisor. Built static: cc -static -O2 -o service service.c
 *
 *   service PORT SOCKET               binds 127.0.0.1:PORT, then sends "PORT PID NANOSECONDS" (CLOCK_MONOTONIC, read
 *                                     right after listen(2)) as a datagram to the Unix socket, and waits for clients.
 *                                     A client may send one line:
 *                                       lines N   prints N lines of 100 bytes, then sends
 *                                                 "PORT PID FIRST LAST": the times before and after
 *                                       crash     exits with 1
 *   service floor COUNT PORT SOCKET   what no supervisor can beat: vfork+exec of COUNT services from PORT on, each
 *                                     started again when it ends; SIGTERM ends them all, and then this.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 100, BLOCK = 640 };

static void die(const char *what) {
    perror(what);
    exit(111);
}

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void report(const char *path, const char *text) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s < 0) die("socket");
    if (strlen(path) >= sizeof to.sun_path) exit(112);
    strcpy(to.sun_path, path);
    /* Nobody listening is no reason to end: the benchmark may be done with us. */
    (void)!sendto(s, text, strlen(text), 0, (struct sockaddr *)&to, sizeof to);
    close(s);
}

static void write_all(const char *p, size_t n) {
    while (n > 0) {
        ssize_t w = write(1, p, n);
        if (w < 0 && errno != EINTR) die("write");
        if (w > 0) p += w, n -= (size_t)w;
    }
}

static void print_lines(long count) {
    static char block[LINE * BLOCK + 1];
    long at = 0;
    while (at < count) {
        int used = 0;
        for (int i = 0; i < BLOCK && at < count; i++, at++) {
            char *line = block + used;
            memset(line, 'x', LINE - 1);
            line[snprintf(line, LINE, "line %07ld ", at)] = 'x';
            line[LINE - 1] = '\n';
            used += LINE;
        }
        write_all(block, (size_t)used);
    }
}

static int serve(const char *port, const char *path) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port))};
    struct timeval patience = {.tv_sec = 1};
    int on = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char text[128];
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (s < 0) die("socket");
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(s, (struct sockaddr *)&at, sizeof at) < 0) die("bind");
    if (listen(s, 16) < 0) die("listen");
    snprintf(text, sizeof text, "%s %d %lld", port, getpid(), now());
    report(path, text);
    for (;;) {
        int c = accept4(s, 0, 0, SOCK_CLOEXEC);
        if (c < 0) continue;
        setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        ssize_t n = read(c, text, sizeof text - 1);
        close(c);
        if (n <= 0) continue;
        text[n] = 0;
        if (strncmp(text, "crash", 5) == 0) return 1;
        if (strncmp(text, "lines ", 6) == 0) {
            long count = atol(text + 6);
            long long first = now();
            print_lines(count);
            snprintf(text, sizeof text, "%s %d %lld %lld", port, getpid(), first, now());
            report(path, text);
        }
    }
}

static volatile sig_atomic_t ending;
static pid_t *children;
static int child_count;

static void end_all(int signal_number) {
    ending = 1;
    for (int i = 0; i < child_count; i++)
        if (children[i] > 0) kill(children[i], signal_number);
}

static pid_t spawn(const char *self, int port, const char *path) {
    char text[16];
    snprintf(text, sizeof text, "%d", port);
    pid_t pid = vfork();
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, 0);
        execl(self, self, text, path, (char *)0);
        _exit(127);
    }
    return pid;
}

static int floor_of(const char *self, int count, int port, const char *path) {
    struct sigaction action = {.sa_handler = end_all};
    sigset_t term, old;
    children = calloc((size_t)count, sizeof *children);
    if (!children) die("calloc");
    child_count = count;
    sigaction(SIGTERM, &action, 0);
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, &old);
    for (int i = 0; i < count; i++) children[i] = spawn(self, port + i, path);
    sigprocmask(SIG_SETMASK, &old, 0);
    for (;;) {
        pid_t pid = wait(0);
        if (pid < 0 && errno == EINTR) continue;
        if (pid < 0) return 0;
        sigprocmask(SIG_BLOCK, &term, &old);
        for (int i = 0; i < count; i++)
            if (children[i] == pid) children[i] = ending ? 0 : spawn(self, port + i, path);
        sigprocmask(SIG_SETMASK, &old, 0);
    }
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[1], "floor") == 0)
        return floor_of("/proc/self/exe", atoi(argv[2]), atoi(argv[3]), argv[4]);
    if (argc == 3) return serve(argv[1], argv[2]);
    fputs("usage: service PORT SOCKET | service floor COUNT PORT SOCKET\n", stderr);
    return 2;
}

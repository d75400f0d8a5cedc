//! The subnets that this machine has routes to.

use crate::network::Subnet;
use std::net::Ipv4Addr;

/// What the kernel's table has now (proc(5)), without the default route. None where it can't be read.
pub(crate) fn routes() -> Vec<Subnet> {
    std::fs::read_to_string("/proc/net/route").map(|table| parse(&table)).unwrap_or_default()
}

/// Destination and mask of each line, which are 32 bits in the machine's own order.
fn parse(table: &str) -> Vec<Subnet> {
    let address = |hex: &str| Some(Ipv4Addr::from(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes()));
    let lines = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let (to, mask) = (address(words.nth(1)?)?, address(words.nth(5)?)?);
        let prefix = u32::from(mask).count_ones();
        (prefix > 0).then(|| Subnet::parse(&format!("{to}/{prefix}"))).flatten()
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_without_the_default_route() {
        let word = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        let line = |to, mask| format!("eth0\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0", word(to), word(mask));
        let table = [
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT".to_owned(),
            line([0, 0, 0, 0], [0, 0, 0, 0]),
            line([10, 210, 12, 0], [255, 255, 255, 0]),
            line([172, 16, 0, 0], [255, 240, 0, 0]),
            "what is no route".to_owned(),
        ];
        let subnets: Vec<String> = parse(&table.join("\n")).iter().map(ToString::to_string).collect();
        assert_eq!(subnets, ["10.210.12.0/24", "172.16.0.0/12"]);
    }
}

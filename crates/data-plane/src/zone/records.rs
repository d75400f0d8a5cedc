//! What a DNS zone answers. Pure.
//!
//! Answers are small: an address or a port, at most with the zone's SOA. They fit into the 512 bytes of a datagram that asks
//! for no more (RFC 1035, 4.2.1), so none is ever cut off.

use domain::base::iana::{Class, Opcode, OptRcode, Rcode};
use domain::base::message_builder::{AdditionalBuilder, PushError};
use domain::base::name::ToLabelIter;
use domain::base::{Message, MessageBuilder, Name, Rtype, Serial, StaticCompressor, ToName, Ttl};
use domain::rdata::{A, Aaaa, Ns, Soa, Srv};
use orchestrator::network::plane::Zone;
use std::collections::HashMap;
use std::net::IpAddr;

/// How long an answer may be kept: things move.
const TTL: Ttl = Ttl::from_secs(1);
/// The largest datagram that is taken, and named where EDNS asks (what DNS flag day 2020 recommends).
pub(super) const LARGEST: u16 = 1232;

type Owned = Name<Vec<u8>>;
type Builder = AdditionalBuilder<StaticCompressor<Vec<u8>>>;

/// A zone, to be looked up.
#[derive(Debug)]
pub(super) struct Records {
    apex: Owned,
    soa: Soa<Owned>,
    /// By full name in lower case, as on the wire.
    names: HashMap<Vec<u8>, Entry>,
}

/// What a name has. One that has nothing is a part of a longer one.
#[derive(Debug, Default)]
struct Entry {
    address: Option<IpAddr>,
    port: Option<(u16, Owned)>,
}

/// What is said to a question.
enum Said {
    /// What the name has of the type; nothing, with the SOA, if it has none of it.
    Found(Vec<Record>),
    /// There is no such name.
    NoName,
    /// It isn't answered here.
    Refused,
    /// It is said in a version of EDNS that isn't understood.
    BadVersion,
}

enum Record {
    Address(IpAddr),
    Port(u16, Owned),
    Soa,
    Ns,
}

impl Records {
    /// Of a table with that version. Names that can't be in a zone are left out.
    pub(super) fn new(zone: &Zone, version: u64) -> Option<Self> {
        let apex = name(&zone.name)?;
        let host = name(&format!("hostmaster.{}", zone.name))?;
        // Only whether it differs matters, and versions differ in their low half.
        let serial = Serial((version & u64::from(u32::MAX)) as u32);
        let soa = Soa::new(apex.clone(), host, serial, TTL, TTL, TTL, TTL);
        let mut names: HashMap<Vec<u8>, Entry> = HashMap::new();
        names.entry(key(&apex)).or_default();
        let full = |text: &str| name(&format!("{text}.{}", zone.name));
        for (text, address) in &zone.hosts {
            let Some(owner) = full(text) else { continue };
            names.entry(key(&owner)).or_default().address = Some(*address);
        }
        for (text, port) in &zone.ports {
            let (Some(owner), Some(host)) = (full(text), full(&port.host)) else { continue };
            // `_tcp.db` is there too if `_http._tcp.db` is (RFC 8020).
            for between in owner.iter_suffixes().take_while(|between| *between != apex) {
                names.entry(key(&between)).or_default();
            }
            names.entry(key(&owner)).or_default().port = Some((port.port, host));
        }
        Some(Self { apex, soa, names })
    }

    /// The answer to a message; `None` where none is due: to another answer, and to what is none of DNS's.
    pub(super) fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let message = Message::from_octets(message).ok()?;
        if message.header().qr() {
            return None;
        }
        self.build(&message).ok()
    }

    fn build(&self, message: &Message<&[u8]>) -> Result<Vec<u8>, PushError> {
        if message.header().opcode() != Opcode::QUERY {
            return Ok(failed(message, Rcode::NOTIMP));
        }
        let Ok(question) = message.sole_question() else { return Ok(failed(message, Rcode::FORMERR)) };
        if !is_whole(message) {
            return Ok(failed(message, Rcode::FORMERR));
        }
        let (asked, kind) = (question.qname(), question.qtype());
        let edns = message.opt();
        let said = match question.qclass() {
            _ if edns.as_ref().is_some_and(|edns| edns.version() > 0) => Said::BadVersion,
            Class::IN | Class::ANY => self.say(asked, kind),
            _ => Said::Refused,
        };
        let rcode = match said {
            // The rest of that code stands in the OPT record.
            Said::Found(_) | Said::BadVersion => Rcode::NOERROR,
            Said::NoName => Rcode::NXDOMAIN,
            Said::Refused => Rcode::REFUSED,
        };
        let is_bad = matches!(said, Said::BadVersion);
        let mut answer = builder().start_answer(message, rcode)?;
        answer.header_mut().set_aa(matches!(said, Said::Found(_) | Said::NoName));
        let mut with_soa = matches!(said, Said::NoName);
        let mut host = None;
        if let Said::Found(records) = said {
            with_soa = records.is_empty();
            for record in records {
                match record {
                    Record::Address(IpAddr::V4(address)) => {
                        answer.push((asked, Class::IN, TTL, A::new(address)))?;
                    }
                    Record::Address(IpAddr::V6(address)) => {
                        answer.push((asked, Class::IN, TTL, Aaaa::new(address)))?;
                    }
                    Record::Port(port, name) => {
                        answer.push((asked, Class::IN, TTL, Srv::new(0, 0, port, &name)))?;
                        host = Some(name);
                    }
                    Record::Soa => answer.push((asked, Class::IN, TTL, self.soa.clone()))?,
                    Record::Ns => answer.push((asked, Class::IN, TTL, Ns::new(&self.apex)))?,
                }
            }
        }
        let mut authority = answer.authority();
        if with_soa {
            // How long it may be remembered that there is nothing (RFC 2308).
            authority.push((&self.apex, Class::IN, TTL, self.soa.clone()))?;
        }
        let mut additional = authority.additional();
        if let Some(host) = host {
            match self.names.get(&key(&host)).and_then(|entry| entry.address) {
                Some(IpAddr::V4(address)) => additional.push((&host, Class::IN, TTL, A::new(address)))?,
                Some(IpAddr::V6(address)) => additional.push((&host, Class::IN, TTL, Aaaa::new(address)))?,
                None => {}
            }
        }
        if edns.is_some() {
            additional.opt(|opt| {
                opt.set_udp_payload_size(LARGEST);
                if is_bad {
                    opt.set_rcode(OptRcode::BADVERS);
                }
                Ok(())
            })?;
        }
        Ok(bytes(additional))
    }

    fn say(&self, asked: &impl ToName, kind: Rtype) -> Said {
        if !asked.ends_with(&self.apex) || matches!(kind, Rtype::AXFR | Rtype::IXFR) {
            return Said::Refused;
        }
        let Some(entry) = self.names.get(&key(asked)) else { return Said::NoName };
        // One record is answer enough to who asks for all (RFC 8482).
        let any = kind == Rtype::ANY;
        let is_apex = asked.name_eq(&self.apex);
        let mut records = Vec::new();
        match entry.address {
            Some(address @ IpAddr::V4(_)) if any || kind == Rtype::A => {
                records.push(Record::Address(address))
            }
            Some(address @ IpAddr::V6(_)) if any || kind == Rtype::AAAA => {
                records.push(Record::Address(address));
            }
            _ => {}
        }
        if let Some((port, host)) = entry.port.as_ref().filter(|_| any || kind == Rtype::SRV) {
            records.push(Record::Port(*port, host.clone()));
        }
        if is_apex && (any || kind == Rtype::SOA) {
            records.push(Record::Soa);
        }
        if is_apex && kind == Rtype::NS {
            records.push(Record::Ns);
        }
        Said::Found(records)
    }
}

fn builder() -> MessageBuilder<StaticCompressor<Vec<u8>>> {
    // A vector has room for any message: the error can't be.
    let target = StaticCompressor::new(Vec::with_capacity(512));
    MessageBuilder::from_target(target).unwrap_or_else(|_| unreachable!("a vector grows"))
}

fn bytes(builder: Builder) -> Vec<u8> {
    builder.finish().into_target()
}

/// The header alone: what is behind it can't be repeated.
fn failed(message: &Message<&[u8]>, rcode: Rcode) -> Vec<u8> {
    let mut builder = builder();
    let header = builder.header_mut();
    header.set_id(message.header().id());
    header.set_qr(true);
    header.set_opcode(message.header().opcode());
    header.set_rd(message.header().rd());
    header.set_rcode(rcode);
    bytes(builder.additional())
}

/// Whether all of it can be read, with one OPT at most (RFC 6891, 6.1.1).
fn is_whole(message: &Message<&[u8]>) -> bool {
    let Ok(mut records) = message.additional() else { return false };
    let edns = records.try_fold(0, |before, record| {
        let found = before + usize::from(record.ok()?.rtype() == Rtype::OPT);
        (found < 2).then_some(found)
    });
    edns.is_some()
}

fn name(text: &str) -> Option<Owned> {
    let name: Owned = text.parse().ok()?;
    // A backslash would have been an escape: no name of ours has one.
    (!text.contains('\\')).then_some(name)
}

/// The name as on the wire, in lower case.
fn key(name: &(impl ToLabelIter + ?Sized)) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    for label in name.iter_labels() {
        // At most 63.
        key.push(label.len() as u8);
        key.extend(label.as_slice().iter().map(u8::to_ascii_lowercase));
    }
    key
}

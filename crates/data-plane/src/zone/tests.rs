use super::records::Records;
use domain::base::iana::{Opcode, Rcode};
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::AllRecordData;
use orchestrator::network::plane::{Zone, ZonePort};
use proptest::prelude::*;

fn zone() -> Zone {
    let hosts = [("db", "127.64.1.2"), ("web", "127.0.0.1"), ("six", "fd00::1")];
    let port = |host: &str, port| ZonePort { host: host.to_owned(), port };
    Zone {
        name: "shop.test".into(),
        listen: "127.0.0.1:53".parse().unwrap(),
        hosts: hosts.map(|(name, address)| (name.to_owned(), address.parse().unwrap())).into(),
        ports: [
            ("_postgres._tcp.db".to_owned(), port("db", 5432)),
            ("_h._tcp.six".to_owned(), port("six", 1)),
        ]
        .into(),
    }
}

fn question(name: &str, kind: Rtype) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(7);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name.parse::<Name<Vec<u8>>>().unwrap(), kind)).unwrap();
    builder.finish()
}

/// An answer in words: its code, its records, `+` the SOA or what comes along.
fn words(answer: &[u8]) -> String {
    let message = Message::from_octets(answer).unwrap();
    let header = message.header();
    assert!(header.qr() && !header.ra() && !header.tc() && header.id() == 7);
    assert!(answer.len() <= 512, "{} bytes", answer.len());
    let section = |records: domain::base::message::RecordSection<'_, &[u8]>| {
        let texts = records.limit_to::<AllRecordData<_, _>>().map(|record| {
            let record = record.unwrap();
            match record.data() {
                AllRecordData::Opt(_) => "edns".to_owned(),
                AllRecordData::Soa(soa) => format!("soa {}", soa.serial()),
                data => format!("{} {} {data}", record.owner(), record.ttl().as_secs()),
            }
        });
        texts.collect::<Vec<_>>()
    };
    let (_, answers, authority, additional) = message.sections().unwrap();
    let more = section(authority).into_iter().chain(section(additional)).map(|it| format!("+ {it}"));
    let all: Vec<String> = section(answers).into_iter().chain(more).collect();
    let authentic = if header.aa() { "" } else { "not ours: " };
    format!("{authentic}{}; {}", header.rcode(), all.join(", "))
}

fn said(name: &str, kind: Rtype) -> String {
    words(&Records::new(&zone(), 3).unwrap().answer(&question(name, kind)).unwrap())
}

#[test]
fn names_have_what_they_have() {
    for (name, kind, expected) in [
        ("db.shop.test", Rtype::A, "NOERROR; db.shop.test 1 127.64.1.2"),
        ("DB.Shop.TEST", Rtype::A, "NOERROR; DB.Shop.TEST 1 127.64.1.2"),
        ("db.shop.test", Rtype::AAAA, "NOERROR; + soa 3"),
        ("db.shop.test", Rtype::MX, "NOERROR; + soa 3"),
        ("db.shop.test", Rtype::ANY, "NOERROR; db.shop.test 1 127.64.1.2"),
        ("six.shop.test", Rtype::AAAA, "NOERROR; six.shop.test 1 fd00::1"),
        ("six.shop.test", Rtype::A, "NOERROR; + soa 3"),
        ("no.shop.test", Rtype::A, "NXDOMAIN; + soa 3"),
        ("x.db.shop.test", Rtype::A, "NXDOMAIN; + soa 3"),
        (
            "_postgres._tcp.db.shop.test",
            Rtype::SRV,
            "NOERROR; _postgres._tcp.db.shop.test 1 0 0 5432 db.shop.test, + db.shop.test 1 127.64.1.2",
        ),
        ("_postgres._tcp.db.shop.test", Rtype::A, "NOERROR; + soa 3"),
        ("_tcp.db.shop.test", Rtype::A, "NOERROR; + soa 3"),
        ("_udp.db.shop.test", Rtype::A, "NXDOMAIN; + soa 3"),
        ("shop.test", Rtype::SOA, "NOERROR; soa 3"),
        ("shop.test", Rtype::NS, "NOERROR; shop.test 1 shop.test."),
        ("shop.test", Rtype::A, "NOERROR; + soa 3"),
        ("test", Rtype::A, "not ours: REFUSED; "),
        ("db.shop.test.com", Rtype::A, "not ours: REFUSED; "),
        ("dbshop.test", Rtype::A, "not ours: REFUSED; "),
        ("shop.test", Rtype::AXFR, "not ours: REFUSED; "),
    ] {
        assert_eq!(said(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn the_longest_names_that_a_file_can_have_fit_into_the_least_datagram() {
    let zone = Zone { name: format!("{}.{}", "a".repeat(63), "b".repeat(36)), ..zone() };
    let (service, port) = ("s".repeat(63), format!("_{}._tcp.{}", "p".repeat(62), "s".repeat(63)));
    let zone = Zone {
        hosts: [(service.clone(), "fd00::1".parse().unwrap())].into(),
        ports: [(port.clone(), ZonePort { host: service.clone(), port: 1 })].into(),
        ..zone
    };
    let records = Records::new(&zone, u64::MAX).unwrap();
    for (name, kind, answers) in [
        (&port, Rtype::SRV, 1),
        (&port, Rtype::A, 0),
        (&service, Rtype::AAAA, 1),
        (&format!("no.{port}"), Rtype::A, 0),
    ] {
        let mut asked = MessageBuilder::new_vec().question();
        // In another case than the table has it: shortened all the same.
        let name = format!("{name}.{}", zone.name).to_ascii_uppercase();
        asked.push((name.parse::<Name<Vec<u8>>>().unwrap(), kind)).unwrap();
        let mut asked = asked.additional();
        asked.opt(|_| Ok(())).unwrap();
        let answer = records.answer(&asked.finish()).unwrap();
        assert!(answer.len() <= 512, "{kind}: {} bytes", answer.len());
        let message = Message::from_octets(answer.as_slice()).unwrap();
        assert_eq!((message.header_counts().ancount(), message.header().tc()), (answers, false), "{kind}");
    }
}

#[test]
fn messages_that_are_no_questions() {
    let records = Records::new(&zone(), 3).unwrap();
    let asked = question("db.shop.test", Rtype::A);
    let answer = records.answer(&asked).unwrap();
    assert_eq!(records.answer(&answer), None, "to answers there are none: two servers would go on for ever");
    assert_eq!(records.answer(&asked[..11]), None);
    assert_eq!(words(&records.answer(&asked[..14]).unwrap()), "not ours: FORMERR; ");
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(7);
    builder.header_mut().set_opcode(Opcode::NOTIFY);
    assert_eq!(words(&records.answer(&builder.finish()).unwrap()), "not ours: NOTIMP; ");
    let with_edns = |version: u8, times: usize, cut: usize| {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(7);
        let mut builder = builder.question();
        builder.push((Name::vec_from_str("db.shop.test").unwrap(), Rtype::A)).unwrap();
        let mut builder = builder.additional();
        for _ in 0..times {
            builder
                .opt(|opt| {
                    opt.set_version(version);
                    Ok(())
                })
                .unwrap();
        }
        let message = builder.finish();
        records.answer(&message[..message.len() - cut]).unwrap()
    };
    assert_eq!(words(&with_edns(0, 1, 0)), "NOERROR; db.shop.test 1 127.64.1.2, + edns");
    assert_eq!(words(&with_edns(0, 2, 0)), "not ours: FORMERR; ");
    assert_eq!(words(&with_edns(0, 1, 1)), "not ours: FORMERR; ");
    let refused = with_edns(1, 1, 0);
    let refused = Message::from_octets(refused.as_slice()).unwrap();
    assert_eq!((refused.opt_rcode().to_string(), refused.header_counts().ancount()), ("BADVERS".into(), 0));
    assert_eq!(refused.header().rcode(), Rcode::NOERROR);
}

proptest! {
    #[test]
    fn any_bytes_are_taken_and_answers_are_small(
        bytes in prop::collection::vec(any::<u8>(), 0..600), labels in prop::collection::vec("[a-z_]{1,63}", 0..4), kind: u16,
    ) {
        let records = Records::new(&zone(), 3).unwrap();
        records.answer(&bytes);
        let mut question = labels.iter().flat_map(|label| {
            let length = u8::try_from(label.len()).unwrap();
            [&[length], label.as_bytes()].concat()
        }).collect::<Vec<u8>>();
        question.truncate(200);
        question.extend(b"\x04shop\x04test\x00");
        question.extend(kind.to_be_bytes());
        question.extend([0, 1]);
        let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(question);
        // Where labels were cut off it isn't a name.
        if let Some(answer) = records.answer(&message) {
            words(&answer);
        }
    }

    #[test]
    fn any_table_is_taken(name: String, host: String) {
        let zone = Zone {
            hosts: [(host.clone(), "127.0.0.1".parse().unwrap())].into(),
            ports: [(host.clone(), ZonePort { host, port: 1 })].into(),
            name,
            ..zone()
        };
        if let Some(records) = Records::new(&zone, 0) {
            records.answer(&question("db.shop.test", Rtype::A));
        }
    }
}

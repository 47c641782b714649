//! Enrolment tickets.

use proptest::prelude::*;

use crate::{Address, EnrolmentTicket, Fingerprint, IssuedKind, IssuedSecret, NotIssued, TicketError};

fn secret() -> IssuedSecret {
    IssuedSecret::mint(IssuedKind::Enrolment).unwrap()
}

fn address() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        "[a-z0-9][a-z0-9.-]{0,60}",
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
    ];
    (host, 1..=u16::MAX).prop_map(|(host, port)| format!("{host}:{port}"))
}

proptest! {
    #[test]
    fn a_ticket_is_read_back(authority: [u8; 32], addresses in prop::collection::vec(address(), 1..=8)) {
        let coordinators: Vec<Address> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let ticket = EnrolmentTicket::new(secret(), Fingerprint(authority), coordinators.clone()).unwrap();
        let text = ticket.reveal();
        let parsed = EnrolmentTicket::parse(&format!(" {}\n", *text)).unwrap();
        prop_assert_eq!(parsed.secret().reveal(), ticket.secret().reveal());
        prop_assert_eq!(parsed.authority(), Fingerprint(authority));
        prop_assert_eq!(parsed.coordinators(), &coordinators[..]);
        prop_assert_eq!(&parsed.reveal(), &text);
    }

    #[test]
    fn no_text_makes_parsing_panic(text in "\\PC{0,200}") {
        prop_assert!(EnrolmentTicket::parse(&text).is_err());
    }
}

fn ticket(addresses: &[&str]) -> Result<EnrolmentTicket, TicketError> {
    let addresses = addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    EnrolmentTicket::new(secret(), Fingerprint([0xab; 32]), addresses)
}

#[test]
fn a_ticket_that_was_mistyped_or_cut_is_none() {
    let text = ticket(&["coord.example:7400", "[::1]:7400"]).unwrap().reveal();
    for at in 0..text.len() {
        let mut changed: Vec<u8> = text.bytes().collect();
        changed[at] = if changed[at] == b'7' { b'8' } else { b'7' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(EnrolmentTicket::parse(&changed).is_err(), "{changed}");
        assert!(EnrolmentTicket::parse(&text[..at]).is_err(), "cut at {at}");
    }
    let mut other = String::from(&*text);
    other.truncate(text.len() - 6);
    let error = EnrolmentTicket::parse(&format!("{other}000000")).unwrap_err();
    assert_eq!(error, TicketError::Checksum);
}

#[test]
fn a_ticket_has_limits() {
    assert_eq!(ticket(&[]).unwrap_err(), TicketError::Addresses);
    assert_eq!(ticket(&["a:1"; 9]).unwrap_err(), TicketError::Addresses);
    let longest = format!("{}:65535", "h".repeat(253));
    let text = ticket(&[longest.as_str(); 8]).unwrap().reveal();
    EnrolmentTicket::parse(&text).unwrap();
    assert_eq!(EnrolmentTicket::parse(&"@".repeat(text.len() + 1)).unwrap_err(), TicketError::Form);
    for bad in [
        "a", "a:", ":1", "a:0", "a:65536", "a:+1", "a:1,b:2", "a@b:1", "a b:1", "::1:7", "[::1:7", "[x]:7",
        "é:1", "a:000001",
    ] {
        assert!(matches!(bad.parse::<Address>(), Err(TicketError::Address(_))), "{bad}");
    }
    assert!(format!("{}:1", "h".repeat(254)).parse::<Address>().is_err());
    let session = IssuedSecret::mint(IssuedKind::Session).unwrap();
    let refused = EnrolmentTicket::new(session, Fingerprint([0; 32]), vec!["a:1".parse().unwrap()]);
    assert_eq!(refused.unwrap_err(), TicketError::Token(NotIssued::Kind(IssuedKind::Session)));
}

#[test]
fn a_ticket_prints_without_its_secret() {
    let ticket = ticket(&["a:1"]).unwrap();
    let shown = format!("{ticket:?}");
    assert!(!shown.contains(&ticket.secret().reveal()[18..30]) && shown.contains("a:1"), "{shown}");
}

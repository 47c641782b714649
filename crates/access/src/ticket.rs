//! The text that an operator carries to a new machine: `aap-agent enroll TICKET` needs nothing else.
//!
//! ```text
//!  aape_…  @  64 hexadecimal digits  @  host:port,host:port  @  2PqW0a
//!  token      fingerprint of the CA     where coordinators are  CRC-32 of all before it
//! ```
//! The fingerprint is what the node knows the coordinator by at first contact: it trusts no other, and sends the token to no other.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::issued::{CHECK_LETTERS, ISSUED_LETTERS, checksum};
use crate::{Fingerprint, IssuedKind, IssuedSecret, NotIssued};

/// Longest host name there is.
const HOST_BYTES_MAX: usize = 253;
/// More coordinators than a node needs to find one of them.
const ADDRESSES_MAX: usize = 8;
/// Hexadecimal digits of a fingerprint.
const FINGERPRINT_DIGITS: usize = 64;
/// The longest ticket there can be, with a port and a comma behind each host.
const TICKET_BYTES_MAX: usize =
    ISSUED_LETTERS + 1 + FINGERPRINT_DIGITS + 1 + ADDRESSES_MAX * (HOST_BYTES_MAX + 7) + CHECK_LETTERS;

/// Why a text is no ticket. It never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Too short, too long, or parts are missing.
    #[error("it is no enrolment token of this platform, or only a part of one")]
    Form,
    /// The whole has not the checksum that it ends with.
    #[error("the enrolment token was mistyped or cut off: its checksum is wrong")]
    Checksum,
    /// The token in it is none.
    #[error("the enrolment token is none")]
    Token(#[source] NotIssued),
    /// An address is none.
    #[error("`{0}` is no address: write `host:port`")]
    Address(String),
    /// Too few or too many addresses.
    #[error("an enrolment token names 1 to {ADDRESSES_MAX} addresses of coordinators")]
    Addresses,
}

/// Where a coordinator is: `host:port`, with an IPv6 address in brackets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address(String);

impl Address {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Address {
    type Err = TicketError;
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let is_host = |host: &str| match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => {
                let may = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
                (1..=HOST_BYTES_MAX).contains(&host.len()) && host.bytes().all(may)
            }
        };
        let is_port = |port: &str| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
        };
        match text.rsplit_once(':') {
            Some((host, port)) if port.len() <= 5 && is_host(host) && is_port(port) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(TicketError::Address(text.chars().take(HOST_BYTES_MAX).collect())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that a machine needs to become a node.
#[derive(Debug)]
pub struct EnrolmentTicket {
    secret: IssuedSecret,
    authority: Fingerprint,
    coordinators: Vec<Address>,
}

impl EnrolmentTicket {
    /// A ticket with a secret of the kind [`IssuedKind::Enrolment`].
    ///
    /// # Errors
    /// [`TicketError::Addresses`], [`TicketError::Token`].
    pub fn new(
        secret: IssuedSecret,
        authority: Fingerprint,
        coordinators: Vec<Address>,
    ) -> Result<Self, TicketError> {
        if secret.kind() != IssuedKind::Enrolment {
            return Err(TicketError::Token(NotIssued::Kind(secret.kind())));
        }
        if !(1..=ADDRESSES_MAX).contains(&coordinators.len()) {
            return Err(TicketError::Addresses);
        }
        Ok(Self { secret, authority, coordinators })
    }

    /// The ticket that a text is. Space around it does not matter.
    ///
    /// # Errors
    /// [`TicketError`].
    pub fn parse(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        if text.len() > TICKET_BYTES_MAX {
            return Err(TicketError::Form);
        }
        let (body, check) = text.rsplit_once('@').ok_or(TicketError::Form)?;
        let parts: Vec<&str> = body.split('@').collect();
        let [secret, authority, coordinators] = parts[..] else { return Err(TicketError::Form) };
        if checksum(body) != check {
            return Err(TicketError::Checksum);
        }
        let secret = IssuedSecret::parse(IssuedKind::Enrolment, secret).map_err(TicketError::Token)?;
        let is_hex = authority.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let authority = authority.parse().ok().filter(|_| is_hex).ok_or(TicketError::Form)?;
        let coordinators = coordinators.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Self::new(secret, authority, coordinators)
    }

    /// The token, which is all that the coordinator is sent.
    pub fn secret(&self) -> &IssuedSecret {
        &self.secret
    }

    /// The certificate authority that the coordinator's certificate must come from.
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// Where coordinators are.
    pub fn coordinators(&self) -> &[Address] {
        &self.coordinators
    }

    /// The text, to be shown once.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(TICKET_BYTES_MAX));
        text.push_str(self.secret.reveal());
        text.push('@');
        text.push_str(&self.authority.to_string());
        for (at, address) in self.coordinators.iter().enumerate() {
            text.push(if at == 0 { '@' } else { ',' });
            text.push_str(address.as_str());
        }
        let check = checksum(&text);
        text.push('@');
        text.push_str(&check);
        text
    }
}

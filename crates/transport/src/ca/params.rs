//! What stands in certificates, how long they hold, and whether one is as it should be.

use std::net::IpAddr;
use std::time::Duration;

use aap_runtime::Clock;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::X509Certificate;

use super::issue_error;
use crate::Error;

/// Seconds of a day.
pub(super) const DAY: u64 = 86_400;
/// Life of a root (reliability-security 4.4: ten years).
pub(super) const ROOT_SECONDS: u64 = 3653 * DAY;
/// Life of an intermediate (reliability-security 4.4: a year).
pub(super) const INTERMEDIATE_SECONDS: u64 = 365 * DAY;
/// An intermediate with less life left is issued again: half a year, in which an operator brings the root's key back if it is away.
pub(super) const INTERMEDIATE_LEFT_SECONDS_MIN: u64 = INTERMEDIATE_SECONDS / 2;
/// A root with less life left is signed anew: an intermediate that it issues now would outlive it.
pub(super) const ROOT_LEFT_SECONDS_MIN: u64 = 2 * INTERMEDIATE_SECONDS;
/// Certificates begin this much earlier, for nodes whose clock is slow; short-lived ones a tenth of their life.
const SKEW_SECONDS: u64 = 3600;

/// A certificate that holds for so many seconds from `now` on, and the second at which it ends.
fn params(subject: &str, seconds: u64, now: u64) -> (CertificateParams, u64) {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "AAP");
    name.push(DnType::CommonName, subject);
    params.distinguished_name = name;
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(SKEW_SECONDS.min(seconds / 10)));
    let ends = now + seconds;
    params.not_after = epoch + Duration::from_secs(ends);
    (params, ends)
}

/// Of a node or a coordinator.
pub(super) fn leaf(
    subject: &str,
    (names, usage): (&[SanType], ExtendedKeyUsagePurpose),
    seconds: u64,
    now: u64,
) -> (CertificateParams, u64) {
    let (mut params, ends) = params(subject, seconds, now);
    params.subject_alt_names = names.to_vec();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    (params, ends)
}

/// Of an authority below which there are so many others.
fn authority(subject: &str, below: u8, seconds: u64, clock: &dyn Clock) -> CertificateParams {
    let (mut params, _) = params(subject, seconds, clock.unix_ms() / 1000);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Of a root.
pub(super) fn root(subject: &str, clock: &dyn Clock) -> CertificateParams {
    authority(subject, 1, ROOT_SECONDS, clock)
}

/// Of an intermediate, which ends no later than its root.
pub(super) fn intermediate(root_ends: u64, clock: &dyn Clock) -> CertificateParams {
    let now = clock.unix_ms() / 1000;
    let seconds = INTERMEDIATE_SECONDS.min(root_ends.saturating_sub(now));
    let mut params = authority("AAP intermediate", 0, seconds, clock);
    params.use_authority_key_identifier_extension = true;
    params
}

/// The names of the coordinator, each once.
pub(super) fn server_names(names: &[String]) -> Result<Vec<SanType>, Error> {
    let mut wanted = Vec::new();
    for name in names.iter().map(String::as_str).chain(["localhost", "127.0.0.1", "::1"]) {
        let entry = match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(dns_name(name)?),
        };
        if !wanted.contains(&entry) {
            wanted.push(entry);
        }
    }
    Ok(wanted)
}

/// Whether a certificate can carry `name` as the name of a host.
pub fn is_host_name(name: &str) -> bool {
    rustls_pki_types::DnsName::try_from(name).is_ok()
}

fn dns_name(name: &str) -> Result<rcgen::string::Ia5String, Error> {
    let bad = || Error::BadName { name: name.to_owned() };
    if !is_host_name(name) {
        return Err(bad());
    }
    name.try_into().map_err(|_| bad())
}

pub(super) fn uri_name(uri: &str) -> Result<SanType, Error> {
    uri.try_into().map(SanType::URI).map_err(issue_error(uri))
}

/// Whether `leaf` carries every name of `wanted`.
pub(super) fn has_names(leaf: &X509Certificate<'_>, wanted: &[SanType]) -> bool {
    use x509_parser::extensions::GeneralName;
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return false };
    let carries = |want: &SanType| {
        names.value.general_names.iter().any(|name| match (name, want) {
            (GeneralName::DNSName(have), SanType::DnsName(want)) => *have == want.as_str(),
            (GeneralName::URI(have), SanType::URI(want)) => *have == want.as_str(),
            (GeneralName::IPAddress(have), SanType::IpAddress(IpAddr::V4(want))) => *have == want.octets(),
            (GeneralName::IPAddress(have), SanType::IpAddress(IpAddr::V6(want))) => *have == want.octets(),
            _ => false,
        })
    };
    wanted.iter().all(carries)
}

pub(super) fn has_begun(certificate: &X509Certificate<'_>, clock: &dyn Clock) -> bool {
    clock.unix_us() / 1_000_000 >= certificate.validity().not_before.timestamp()
}

/// Whether so many seconds or fewer are left.
pub(super) fn ends_within(certificate: &X509Certificate<'_>, seconds: u64, clock: &dyn Clock) -> bool {
    let left = certificate.validity().not_after.timestamp() - clock.unix_us() / 1_000_000;
    left <= i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// Whether half of its life is over.
pub(super) fn is_half_over(certificate: &X509Certificate<'_>, clock: &dyn Clock) -> bool {
    let life = ends(certificate).saturating_sub(begins(certificate));
    ends_within(certificate, life / 2, clock)
}

fn begins(certificate: &X509Certificate<'_>) -> u64 {
    u64::try_from(certificate.validity().not_before.timestamp()).unwrap_or(0)
}

/// The second at which it ends.
pub(super) fn ends(certificate: &X509Certificate<'_>) -> u64 {
    u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0)
}

/// Whether another authority may stand below it.
pub(super) fn may_have_authorities(certificate: &X509Certificate<'_>) -> bool {
    let constraints = certificate.basic_constraints().ok().flatten();
    constraints.is_some_and(|found| found.value.path_len_constraint != Some(0))
}

pub(super) fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> &'a str {
    let name = certificate.subject().iter_common_name().next();
    name.and_then(|name| name.as_str().ok()).unwrap_or_default()
}

pub(super) fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

pub(super) fn authority_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    })
}

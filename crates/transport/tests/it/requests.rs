//! E4 of the table of attacks: whatever stands in a request for a certificate, only its key counts.

use std::time::Duration;

use aap_transport::CertificateRequest;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;

use crate::support::{authority, node};

/// Seconds that certificates are issued for here.
const LIFE: u64 = 3600;

/// A request as somebody makes it who wants more.
fn request(wish: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    wish(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

#[test]
fn e4_names_powers_and_lifetimes_in_a_request_are_ignored_or_it_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(&directory);
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let uri = |name: &str| SanType::URI(name.try_into().unwrap());
    let wishes: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", request(|_| {})),
        ("another node", request(|params| params.distinguished_name.push(DnType::CommonName, "edge-2"))),
        (
            "another node's URI",
            request(|params| {
                params.subject_alt_names = vec![uri("spiffe://aap/node/edge-2")];
            }),
        ),
        (
            "a coordinator",
            request(|params| {
                params.subject_alt_names = vec![uri("spiffe://aap/coordinator/c1")];
            }),
        ),
        ("hosts", request(|params| params.subject_alt_names = vec![dns("localhost"), dns("*.example")])),
        (
            "an address",
            request(|params| {
                params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
            }),
        ),
        ("an authority", request(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        (
            "to be a server",
            request(|params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
            }),
        ),
        (
            "to sign certificates",
            request(|params| {
                params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
            }),
        ),
        ("a hundred years", request(|params| params.not_after = rcgen::date_time_ymd(2126, 1, 1))),
        (
            "an extension of its own",
            request(|params| {
                let extension =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![4, 1, 0]);
                params.custom_extensions = vec![extension];
            }),
        ),
    ];
    let mut issued = 0;
    for (wish, der) in wishes {
        let Ok(request) = CertificateRequest::read(&der) else { continue };
        issued += 1;
        let made = authority.sign_node(&request, &node(), 7, Duration::from_secs(LIFE)).unwrap();
        let der = CertificateDer::from_pem_slice(made.chain.as_bytes()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let expected = format!("spiffe://aap/node/{}", node());
        assert_eq!(names.value.general_names, [GeneralName::URI(&expected)], "{wish}");
        let subject = certificate.subject().iter_common_name().next().unwrap().as_str().unwrap();
        assert_eq!(subject, node().as_str(), "{wish}");
        assert!(!certificate.is_ca(), "{wish}");
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(!usage.key_cert_sign() && !usage.crl_sign(), "{wish}");
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth && !extended.any, "{wish}");
        let life =
            certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
        assert!(life <= (LIFE + LIFE / 10) as i64, "{wish}: {life} s");
        assert_eq!(certificate.extensions().len(), 6, "{wish}: {:?}", certificate.extensions());
    }
    assert!(issued >= 8, "{issued} were answered");
}

#[test]
fn e4_weak_keys_foreign_signatures_and_garbage_are_refused() {
    let good = request(|_| {});
    let mut altered = good.clone();
    let last = altered.len() - 1;
    altered[last] ^= 1;
    let mut other_name = good.clone();
    other_name[10] ^= 1;
    let many = request(|params| {
        params.subject_alt_names =
            (0..200).map(|at| SanType::DnsName(format!("host-{at}.example").try_into().unwrap())).collect();
    });
    let cases: [(&str, &[u8]); 9] = [
        ("RSA of 1024 bits", include_bytes!("rsa-1024.csr")),
        ("a curve of 224 bits", include_bytes!("secp224.csr")),
        ("a signature that does not hold", &altered),
        ("other content under the same signature", &other_name),
        ("one that is cut off", &good[..good.len() / 2]),
        ("more than enough", &many),
        ("nothing", b""),
        ("text", b"-----BEGIN CERTIFICATE REQUEST-----"),
        ("bytes", &[0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 0x30]),
    ];
    for (what, der) in cases {
        let refused = CertificateRequest::read(der).expect_err(what);
        assert_eq!(refused.problem().code, "enrolment.bad_request", "{what}");
    }
    // Every byte cut away, every byte flipped: refused or read, and never a panic.
    for at in 0..good.len() {
        assert!(CertificateRequest::read(&good[..at]).is_err(), "cut at {at}");
        let mut flipped = good.clone();
        flipped[at] ^= 0xFF;
        drop(CertificateRequest::read(&flipped));
    }
}

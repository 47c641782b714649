//! Delays after wrong passwords.

use std::time::Duration;

use aap_runtime::{Clock, ManualClock};

use crate::{Addresses, Lockout};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_wait_begins_after_five_failures_doubles_and_ends_at_a_quarter_of_an_hour() {
    let (clock, mut lockout) = (ManualClock::at(1_000_000), Lockout::default());
    for _ in 0..5 {
        lockout.attempt(clock.unix_us()).unwrap();
    }
    for seconds in [15, 30, 60, 120, 240, 480, 900, 900, 900] {
        assert_eq!(lockout.attempt(clock.unix_us()), Err(seconds * SECOND));
        clock.advance((seconds - 1) * SECOND);
        assert_eq!(lockout.attempt(clock.unix_us()), Err(SECOND), "waiting is not made longer by asking");
        clock.advance(SECOND);
        lockout.attempt(clock.unix_us()).unwrap();
    }
    clock.advance(3600 * SECOND);
    for _ in 0..5 {
        lockout.attempt(clock.unix_us()).unwrap();
    }
    assert_eq!(lockout.attempt(clock.unix_us()), Err(15 * SECOND), "an hour later it begins anew");
    lockout.clear();
    assert_eq!(lockout, Lockout::default());
}

#[test]
fn a_clock_that_was_set_back_locks_nobody_out_for_long() {
    let (day, mut lockout) = (86_400_000_000, Lockout::default());
    for _ in 0..6 {
        lockout.attempt(day).ok();
    }
    assert!(lockout.attempt(day).is_err());
    lockout.attempt(1).unwrap();
    assert_eq!(lockout.attempt(1), Err(30 * SECOND), "and what was counted stays counted");
}

#[test]
fn what_is_right_takes_back_one_failure_of_an_address_and_not_those_of_others() {
    let (mut addresses, from) = (Addresses::default(), "10.0.0.1".parse().unwrap());
    for _ in 0..20 {
        addresses.attempt(from, 1).unwrap();
        addresses.forgive(from);
    }
    for _ in 0..4 {
        addresses.attempt(from, 1).unwrap();
    }
    addresses.attempt(from, 1).unwrap();
    addresses.forgive(from);
    addresses.attempt(from, 1).unwrap();
    assert_eq!(addresses.attempt(from, 1), Err(15 * SECOND));
    addresses.attempt("10.0.0.2".parse().unwrap(), 1).unwrap();
}

#[test]
fn of_ipv6_a_network_is_one_and_so_many_are_remembered() {
    let mut addresses = Addresses::default();
    for host in 0..5 {
        addresses.attempt(format!("2001:db8:1:2::{host}").parse().unwrap(), 5).unwrap();
    }
    assert!(addresses.attempt("2001:db8:1:2:ffff::1".parse().unwrap(), 5).is_err());
    addresses.attempt("2001:db8:1:3::1".parse().unwrap(), 5).unwrap();
    // The same address in two forms.
    for text in ["10.9.9.9", "::ffff:10.9.9.9", "10.9.9.9", "::ffff:10.9.9.9", "10.9.9.9"] {
        addresses.attempt(text.parse().unwrap(), 5).unwrap();
    }
    assert!(addresses.attempt("::ffff:10.9.9.9".parse().unwrap(), 5).is_err());

    for number in 0..10_000u32 {
        addresses.attempt(std::net::Ipv4Addr::from_bits(number).into(), 6).unwrap();
    }
    assert!(format!("{addresses:?}").matches("failures").count() <= 10_000);
    addresses.attempt("2001:db8:1:2::9".parse().unwrap(), 6).expect("the oldest is forgotten");
}

//! Bad surroundings and bad input below the prompt: full disks, other people's state, ports and files that are not ours.
//!
//! Each is answered with an error that names cause and remedy; nothing that was acknowledged is lost; no program
//! panics or ends; other data keeps flowing. Bad requests are in `http.rs`, bad statements in `statements.rs`, bad
//! arguments of `aap ingest` in `ingest.rs`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use aap_tests::{PATIENCE, Platform, Ran, Running, Signal, eventually, wait_until};
use serde_json::json;

/// A file source of this name and stream.
fn file_source(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: aap/v1\nkind: Source\nmetadata: {{ name: {name} }}\nspec: {{ type: file, stream: {name}, {spec} }}\n"
    )
}

fn garbage(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn garbage_in_a_followed_file_is_kept_and_stops_nobody() {
    let platform = Platform::new();
    let folder = platform.beside("in");
    fs::create_dir(&folder).unwrap();
    let at = |name: &str| folder.join(name);
    fs::write(at("good.json"), "{\"id\":1}\n").unwrap();
    fs::write(at("garbage.json"), garbage(200_000)).unwrap();
    fs::write(at("garbage.gz"), garbage(50_000)).unwrap();
    let deep = [b"{\"a\":".repeat(10_000), b"1".to_vec(), b"}".repeat(10_000), b"\n".to_vec()].concat();
    fs::write(at("deep.json"), [&deep[..], b"{\"id\":2}\n"].concat()).unwrap();
    let wide: Vec<String> = (0..5000).map(|n| format!("\"c{n}\":{n}")).collect();
    fs::write(at("wide.json"), format!("{{{}}}\n{{\"id\":3}}\n", wide.join(","))).unwrap();
    fs::write(at("nan.json"), "{\"id\":NaN}\n{\"id\":\"\u{fffd}\"}\n{\"id\":4}\n").unwrap();
    fs::write(at("utf8.json"), b"{\"id\":\"\xff\"}\n{\"id\":5}\n").unwrap();
    fs::write(at("garbage.txt"), garbage(200_000)).unwrap();
    let include = |pattern: &str| format!("include: ['{}']", at(pattern).display());
    platform.configure("json", &file_source("json", &format!("{}, format: json", include("*.json"))));
    platform.configure("packed", &file_source("packed", &include("*.gz")));
    platform.configure("text", &file_source("text", &include("*.txt")));
    for format in ["logfmt", "csv", "combined", "syslog", "cri", "auto"] {
        let spec = format!("{}, format: {format}", include("garbage.txt"));
        platform.configure(format, &file_source(format, &spec));
    }
    platform.up(&[]).ok();
    let ids = "select count(*) from json where cast(id as varchar) in ('1', '2', '3', '4', '5')";
    assert!(wait_until(PATIENCE, || platform.count(ids) == 5), "{:?}", platform.rows("select * from json"));
    let dead = platform.rows("select reason, length(text) n from \"json.dead\"");
    for word in ["nested", "columns", "UTF-8"] {
        assert!(dead.iter().any(|row| row["reason"].as_str().unwrap().contains(word)), "{word}: {dead:?}");
    }
    let lines = garbage(200_000).split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count() as u64;
    let rows = "select count(*) from text";
    assert!(
        wait_until(PATIENCE, || platform.count(rows) >= lines - 1),
        "{} of {lines}",
        platform.count(rows)
    );
    let agent = platform.pid("agent");
    fs::write(at("later.json"), "{\"id\":1}\n").unwrap();
    assert!(wait_until(PATIENCE, || platform.count(ids) == 6), "files that come later are read");
    assert_eq!(platform.pid("agent"), agent);
    assert_eq!(platform.panics(), Vec::<String>::new());
    assert_eq!(platform.http().get("/healthz").unwrap().status, 200);
}

#[test]
fn a_directory_that_vanishes_is_named_and_read_on_when_it_is_back() {
    let platform = Platform::new();
    let folder = platform.beside("in");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.log"), "one\n").unwrap();
    fs::write(platform.beside("b.txt"), "other\n").unwrap();
    let source = |name: &str, glob: std::path::PathBuf| {
        platform.configure(name, &file_source(name, &format!("include: ['{}']", glob.display())));
    };
    source("gone", folder.join("*.log"));
    source("other", platform.beside("b.txt"));
    source("never", platform.beside("never/there/*.log"));
    platform.up(&[]).ok();
    assert!(wait_until(PATIENCE, || platform.count("select count(*) from gone") == 1));
    fs::rename(&folder, platform.beside("away")).unwrap();
    eventually("the vanished directory in the log", || {
        platform.log("agent").lines().any(|line| line.contains("WARN") && line.contains("/in`")).then_some(())
    });
    fs::write(platform.beside("b.txt"), "other\nmore\n").unwrap();
    assert!(wait_until(PATIENCE, || platform.count("select count(*) from other") == 2), "others go on");
    fs::rename(platform.beside("away"), &folder).unwrap();
    fs::write(folder.join("a.log"), "one\ntwo\n").unwrap();
    assert!(wait_until(PATIENCE, || platform.count("select count(*) from gone") == 2));
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("new.log"), "three\n").unwrap();
    assert!(wait_until(PATIENCE, || platform.count("select count(*) from gone") == 3));
    assert_eq!(platform.panics(), Vec::<String>::new());
}

#[test]
fn a_file_that_may_not_be_read_is_named_and_the_others_are_read() {
    let platform = Platform::new();
    let folder = platform.beside("in");
    let home = platform.home();
    for folder in [&folder, &home] {
        fs::create_dir(folder).unwrap();
    }
    let forbidden = folder.join("forbidden.log");
    fs::write(&forbidden, "secret\n").unwrap();
    fs::set_permissions(&forbidden, fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(folder.join("open.log"), "open\n").unwrap();
    let config = home.join("agent.yaml");
    let agent = "apiVersion: aap/v1\nkind: Agent\nmetadata: { name: alone }\nspec: {}\n---\n";
    let source = file_source("s", &format!("include: ['{}/*.log']", folder.display()));
    fs::write(&config, format!("{agent}{source}")).unwrap();
    let log = platform.beside("agent.log");
    let mut command = unprivileged(&platform, "aap-agent");
    command.arg("--config").arg(&config).arg("--home").arg(&home).stderr(fs::File::create(&log).unwrap());
    let running = Running::quietly(&mut command);
    let logged = |word: &str| fs::read_to_string(&log).unwrap().lines().any(|line| line.contains(word));
    let came = wait_until(PATIENCE, || logged("forbidden.log"));
    assert!(came, "{}", fs::read_to_string(&log).unwrap());
    assert!(logged("ermission denied"), "{}", fs::read_to_string(&log).unwrap());
    let buffer = home.join("agent/buffer");
    let read = wait_until(PATIENCE, || {
        let ran = platform.aap(&["buffer", "export", buffer.to_str().unwrap(), "--stream", "s"]);
        ran.code == 0 && ran.out.contains("open") && !ran.out.contains("secret")
    });
    assert!(read, "{}", fs::read_to_string(&log).unwrap());
    running.signal(Signal::TERM);
    assert_eq!(running.end().code, 0);
}

/// A program without root's rights, in a home that it may write.
fn unprivileged(platform: &Platform, name: &str) -> Command {
    let plain = platform.command(name);
    if !rustix::process::geteuid().is_root() {
        return plain;
    }
    let base = platform.beside("");
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(platform.home(), Some(65534), Some(65534)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(plain.get_program());
    command.env("AAP_HOME", platform.home()).current_dir(base);
    command
}

#[test]
fn a_second_agent_and_a_second_coordinator_are_refused_the_state_of_the_first() {
    let platform = Platform::started(&[]);
    for name in ["agent", "coordinator"] {
        let before = platform.pid(name);
        let mut command = platform.command(&format!("aap-{name}"));
        let ran = Ran::of(command.arg("--home").arg(platform.home()).output().unwrap());
        assert_ne!(ran.code, 0, "{name}: {ran:?}");
        assert!((ran.out.clone() + &ran.err).contains("in use by another process"), "{name}: {ran:?}");
        assert_eq!(platform.pid(name), before);
    }
    platform.aap(&["query", "select 1"]).ok();
    assert_eq!(platform.http().get("/healthz").unwrap().status, 200);
}

#[test]
fn state_of_a_newer_version_is_refused_and_left_as_it_is() {
    let platform = Platform::started(&[]);
    platform.aap_with_input(&["ingest", "kept", "-", "--format", "text"], b"one\ntwo\n").ok();
    assert_eq!(platform.count("select count(*) from kept"), 2);
    platform.down().ok();
    let version = platform.home().join("agent/version");
    let former = fs::read(&version).unwrap();
    fs::write(&version, "99\n").unwrap();
    let refused = platform.up(&["-o", "json"]);
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.problem().to_string().contains("version 99"), "{refused:?}");
    let alone = platform.command("aap-agent").arg("--home").arg(platform.home()).output().unwrap();
    let alone = Ran::of(alone).code(6);
    assert!(alone.err.contains("agent.newer_state") && alone.err.contains("hint:"), "{}", alone.err);
    assert_eq!(fs::read(&version).unwrap(), b"99\n", "it is left as it is");
    fs::write(&version, former).unwrap();

    let catalogue = platform.home().join("coordinator/meta.db");
    let mut bytes = fs::read(&catalogue).unwrap();
    // SQLite keeps `user_version` at offset 60 of the first page.
    let known = u32::from_be_bytes(*bytes[60..64].first_chunk().unwrap());
    bytes[60..64].copy_from_slice(&(known + 98).to_be_bytes());
    fs::write(&catalogue, &bytes).unwrap();
    let refused = platform.up(&["-o", "json"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    let newer = format!("schema version {}", known + 98);
    assert!(refused.problem().to_string().contains(&newer), "{refused:?}");
    bytes[60..64].copy_from_slice(&known.to_be_bytes());
    fs::write(&catalogue, &bytes).unwrap();
    platform.up(&[]).ok();
    assert_eq!(platform.count("select count(*) from kept"), 2);
}

#[test]
fn a_configured_port_that_is_taken_is_named_and_other_sources_go_on() {
    let platform = Platform::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    platform.configure(
        "net",
        &format!("apiVersion: aap/v1\nkind: Source\nmetadata: {{ name: net }}\nspec: {{ type: syslog, tcp: '{address}' }}\n"),
    );
    fs::write(platform.beside("a.log"), "one\n").unwrap();
    platform.up(&["--tail", platform.beside("a.log").to_str().unwrap()]).ok();
    assert!(wait_until(PATIENCE, || platform.count("select count(*) from logs") == 1));
    eventually("the port in the status", || {
        let ran = platform.aap(&["status"]);
        (ran.out + &ran.err).contains(&address.to_string()).then_some(())
    });
    drop(taken);
    let listens = wait_until(PATIENCE, || std::net::TcpStream::connect(address).is_ok());
    assert!(listens, "it listens as soon as the port is free: {:?}", platform.aap(&["status"]));
}

#[test]
fn a_port_of_the_coordinator_that_is_taken_refuses_the_start_by_name() {
    let platform = Platform::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    fs::create_dir_all(platform.home().join("config")).unwrap();
    let config = format!(
        "apiVersion: aap/v1\nkind: Coordinator\nmetadata: {{ name: coordinator }}\nspec: {{ agents: {{ bind: '{address}' }} }}\n"
    );
    fs::write(platform.home().join("config/coordinator.yaml"), config).unwrap();
    let refused = platform.up(&["-o", "json"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.problem().to_string().contains(&address.to_string()), "{refused:?}");
    drop(taken);
    platform.up(&[]).ok();
}

#[test]
fn an_agent_takes_data_while_its_coordinator_is_not_there() {
    let platform = Platform::new();
    let dark = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (running, http) = platform.agent_alone(&format!("{{ coordinator: {{ address: '{dark}' }} }}"));
    let answer = http.post("waits", &[("content-type", "text/plain")], b"one\ntwo\n").unwrap();
    assert_eq!((answer.status, &answer.body["rows"]), (200, &json!(2)));
    assert_eq!(http.get("/readyz").unwrap().status, 200);
    let refused = platform.aap(&["query", "-o", "json", "select 1"]);
    assert_eq!((refused.code, refused.problem()["retryable"].as_bool()), (7, Some(true)), "{refused:?}");
    running.signal(Signal::TERM);
    assert_eq!(running.end().code, 0, "{}", fs::read_to_string(platform.beside("alone.log")).unwrap());
    let buffer = platform.home().join("agent/buffer");
    let kept = platform.aap(&["buffer", "export", buffer.to_str().unwrap(), "--stream", "waits"]).ok();
    assert_eq!(kept.out.lines().count(), 2, "{kept:?}");
}

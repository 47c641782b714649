//! Where a login lies: in a real keyring on a D-Bus of its own, in the memory of the kernel, or in a sealed file; and what is said where
//! the keyring is locked, silent or gone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aap_tests::{Platform, Ran, Service, eventually};
use serde_json::Value;

const PASSWORD: &str = "winter tram mushroom";
/// Of the keyring.
const KEYRING_PASSWORD: &str = "lamp quarry eleven";
/// The limit of 3 s, and what a busy machine takes to start a program.
const LIMIT: Duration = Duration::from_secs(8);
/// What the token of a session begins with.
const TOKEN: &[u8] = b"aaps_";
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy>
</busconfig>
"#;

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A session with a bus and an open keyring, in folders of its own.
struct Desktop {
    folder: PathBuf,
    keyring: Process,
    bus: Process,
}

impl Desktop {
    fn start(platform: &Platform) -> Self {
        let folder = platform.beside("desktop");
        for name in ["home", "run", "data", "config"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        let (socket, config) = (folder.join("bus"), folder.join("bus.conf"));
        std::fs::write(&config, CONFIG.replace("SOCKET", socket.to_str().unwrap())).unwrap();
        let mut command = Command::new("dbus-daemon");
        command.arg(format!("--config-file={}", config.display())).args(["--nofork", "--nopidfile"]);
        let bus = Process(command.stderr(Stdio::null()).spawn().unwrap());
        eventually("the bus", || socket.exists().then_some(()));
        std::fs::write(folder.join("password"), KEYRING_PASSWORD).unwrap();
        let keyring = Self::opened(&folder);
        let desktop = Self { folder, keyring, bus };
        eventually("an open keyring", || (!desktop.is_locked()).then_some(()));
        desktop
    }

    /// A keyring that is opened by its password on standard input.
    fn opened(folder: &Path) -> Process {
        let mut command = Command::new(std::env::var("AAP_TEST_KEYRING").unwrap());
        command.args(["--unlock", "--components=secrets", "--foreground"]).envs(session(folder));
        command.stdin(File::open(folder.join("password")).unwrap());
        Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// What the bus answers.
    fn call(&self, path: &str, method: &str, arguments: &[&str]) -> String {
        let bus = format!("--bus={}", address(&self.folder));
        let mut command = Command::new("dbus-send");
        command.args([bus.as_str(), "--print-reply", "--dest=org.freedesktop.secrets", path, method]);
        String::from_utf8(command.args(arguments).output().unwrap().stdout).unwrap()
    }

    fn is_locked(&self) -> bool {
        let said = self.call(
            "/org/freedesktop/secrets/aliases/default",
            "org.freedesktop.DBus.Properties.Get",
            &["string:org.freedesktop.Secret.Collection", "string:Locked"],
        );
        !said.contains("boolean false")
    }

    fn lock(&self) {
        let keyring = "array:objpath:/org/freedesktop/secrets/collection/login";
        self.call("/org/freedesktop/secrets", "org.freedesktop.Secret.Service.Lock", &[keyring]);
        assert!(self.is_locked());
    }

    /// Begins anew, which opens it.
    fn restart(&mut self) {
        self.keyring.signal("-KILL");
        self.keyring.0.wait().unwrap();
        self.keyring = Self::opened(&self.folder);
        eventually("an open keyring", || (!self.is_locked()).then_some(()));
    }

    /// How many items of ours there are.
    fn items(&self) -> usize {
        let ours = "dict:string:string:application,aap";
        let said =
            self.call("/org/freedesktop/secrets", "org.freedesktop.Secret.Service.SearchItems", &[ours]);
        said.matches("object path").count()
    }
}

fn address(folder: &Path) -> String {
    format!("unix:path={}", folder.join("bus").display())
}

/// What a session has in its environment.
fn session(folder: &Path) -> Vec<(&'static str, String)> {
    let within = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    vec![
        ("DBUS_SESSION_BUS_ADDRESS", address(folder)),
        ("HOME", within("home")),
        ("XDG_RUNTIME_DIR", within("run")),
        ("XDG_DATA_HOME", within("data")),
        ("XDG_CONFIG_HOME", within("config")),
    ]
}

/// A platform with a user.
fn platform() -> Platform {
    let platform = Platform::started(&[]);
    platform.aap_with_input(&["user", "create", "ana", "--password-file", "-"], PASSWORD.as_bytes()).ok();
    std::fs::write(platform.beside("password"), PASSWORD).unwrap();
    platform
}

/// Somebody at the platform's machine, with these variables and otherwise no store named.
struct Operator<'a>(&'a Platform, Vec<(&'static str, String)>);

impl Operator<'_> {
    fn aap(&self, arguments: &[&str]) -> Ran {
        let mut command = self.0.command("aap");
        command.args(arguments).args(["-o", "json"]);
        for ours in ["AAP_CREDENTIAL_STORE", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"] {
            command.env_remove(ours);
        }
        Ran::of(command.envs(self.1.iter().cloned()).output().unwrap())
    }

    /// Logs in; the store that it says.
    fn log_in(&self) -> (String, Ran) {
        let password = self.0.beside("password");
        let ran = self.aap(&["auth", "login", "ana", "--password-file", password.to_str().unwrap()]).ok();
        (text(&ran, "store"), ran)
    }

    fn whoami(&self) -> String {
        text(&self.aap(&["auth", "whoami"]).ok(), "name")
    }

    /// Refused in time, with a cause and something to do.
    #[track_caller]
    fn is_refused(&self, arguments: &[&str], exit: i32, code: &str) -> Value {
        let begun = Instant::now();
        let problem = self.aap(arguments).refused(exit, code);
        assert!(begun.elapsed() < LIMIT, "{arguments:?} took {:?}", begun.elapsed());
        let has = |name: &str| !problem[name].as_array().unwrap().is_empty();
        assert!(has("causes") && has("hints"), "{problem}");
        problem
    }
}

fn text(ran: &Ran, name: &str) -> String {
    ran.json()["item"][name].as_str().unwrap_or_default().to_owned()
}

/// Files of whoever types that hold the token of a session.
fn with_token(platform: &Platform) -> Vec<PathBuf> {
    let mut folders = vec![
        platform.beside("operator-state"),
        platform.beside("operator-config"),
        platform.beside("desktop"),
    ];
    let mut found = vec![];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = std::fs::read(entry.path()).unwrap();
                let holds = bytes.windows(TOKEN.len()).any(|window| window == TOKEN);
                found.extend(holds.then(|| entry.path()));
            }
        }
    }
    found
}

#[test]
fn a_login_lies_in_the_keyring_of_the_desktop_and_in_no_file_until_it_is_forgotten() {
    let test = "a_login_lies_in_the_keyring_of_the_desktop_and_in_no_file_until_it_is_forgotten";
    if Service::find("keyring", "keyring", "AAP_TEST_KEYRING", test).is_none() {
        return;
    }
    let platform = platform();
    let desktop = Desktop::start(&platform);
    let ana = Operator(&platform, session(&desktop.folder));
    assert_eq!(ana.whoami(), "operator");

    // A login of the former kind, which moves over.
    let mut in_clear = session(&desktop.folder);
    in_clear.push(("AAP_CREDENTIAL_STORE", "file".to_owned()));
    assert_eq!(Operator(&platform, in_clear).log_in().0, "file");
    assert_eq!((ana.whoami(), with_token(&platform).len(), desktop.items()), ("ana".into(), 1, 0));

    assert_eq!(ana.log_in().0, "secret-service");
    assert_eq!((ana.whoami(), desktop.items()), ("ana".into(), 1));
    assert_eq!(with_token(&platform), Vec::<PathBuf>::new());
    let status = ana.aap(&["auth", "status"]).ok();
    assert_eq!((text(&status, "store"), text(&status, "source")), ("secret-service".into(), "login".into()));
    let found = ana.aap(&["doctor", "--only", "credentials"]).ok();
    assert!(found.out.contains("the stored login is used (secret-service)"), "{found:?}");
    ana.log_in();
    assert_eq!(desktop.items(), 1, "a new login takes the place of the former");

    // A shell without the desktop's bus does not become somebody else.
    Operator(&platform, vec![]).is_refused(&["auth", "whoami"], 7, "auth.store_unavailable");
    let ended = ana.aap(&["auth", "logout"]).ok();
    assert_eq!(ended.json()["item"]["session_ended"], true);
    assert_eq!((desktop.items(), ana.whoami()), (0, "operator".into()));
}

#[test]
fn a_keyring_that_is_locked_silent_or_gone_is_an_error_in_time_and_never_another_identity() {
    let test = "a_keyring_that_is_locked_silent_or_gone_is_an_error_in_time_and_never_another_identity";
    if Service::find("keyring", "keyring", "AAP_TEST_KEYRING", test).is_none() {
        return;
    }
    let platform = platform();
    let mut desktop = Desktop::start(&platform);
    let ana = Operator(&platform, session(&desktop.folder));
    assert_eq!(ana.log_in().0, "secret-service");

    desktop.lock();
    for line in [&["auth", "whoami"][..], &["auth", "status"], &["auth", "logout"], &["node", "ls"]] {
        ana.is_refused(line, 7, "auth.store_locked");
    }
    desktop.restart();
    assert_eq!(ana.whoami(), "ana");

    desktop.keyring.signal("-STOP");
    let silent = ana.is_refused(&["auth", "whoami"], 7, "auth.store_unavailable");
    assert!(silent["causes"].to_string().contains("within 3 s"), "{silent}");
    desktop.keyring.signal("-CONT");
    assert_eq!(ana.whoami(), "ana");

    desktop.bus.signal("-KILL");
    ana.is_refused(&["auth", "whoami"], 7, "auth.store_unavailable");
    // The way out is a new login, which goes elsewhere and says why.
    let (store, ran) = ana.log_in();
    assert!(["keyutils", "encrypted-file"].contains(&store.as_str()), "{ran:?}");
    assert!(ran.err.contains("passed over") && ran.err.contains("stays where it was"), "{ran:?}");
    assert_eq!((ana.whoami(), with_token(&platform)), ("ana".into(), vec![]));
    ana.aap(&["auth", "logout"]).ok();
    assert_eq!(ana.whoami(), "operator");
}

#[test]
fn a_login_in_a_sealed_file_opens_under_its_passphrase_alone() {
    let platform = platform();
    let passphrase = platform.beside("passphrase");
    std::fs::write(&passphrase, "harbour violet nine\n").unwrap();
    let named = ("AAP_CREDENTIAL_STORE", "encrypted-file".to_owned());
    let with = ("AAP_CREDENTIAL_PASSPHRASE_FILE", passphrase.to_str().unwrap().to_owned());
    let ana = Operator(&platform, vec![named, with.clone()]);
    assert_eq!(ana.log_in().0, "encrypted-file");
    assert_eq!(with_token(&platform), Vec::<PathBuf>::new());
    // Which store it is in is remembered.
    let later = Operator(&platform, vec![with]);
    assert_eq!(later.whoami(), "ana");
    let status = later.aap(&["auth", "status"]).ok();
    assert_eq!(text(&status, "store"), "encrypted-file");
    Operator(&platform, vec![]).is_refused(&["auth", "whoami"], 4, "auth.store_sealed");
    std::fs::write(&passphrase, "harbour violet ten\n").unwrap();
    later.is_refused(&["auth", "whoami"], 4, "auth.store_sealed");
    std::fs::write(&passphrase, "harbour violet nine\n").unwrap();
    assert_eq!(later.whoami(), "ana");
    let ended = later.aap(&["auth", "logout"]).ok();
    assert_eq!((&ended.json()["item"]["session_ended"], later.whoami()), (&true.into(), "operator".into()));
}

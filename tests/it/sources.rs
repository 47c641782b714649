//! Followed files, syslog and host metrics: what is read, what is not, and what the rows look like.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use aap_tests::{PATIENCE, Platform, wait_until};
use serde_json::{Value, json};

/// A platform whose agent follows files of a folder of the test's own.
struct Followed {
    platform: Platform,
    folder: PathBuf,
}

impl Followed {
    /// With one source `s` that feeds the stream `s`; `spec` is what stands beside `type` and `stream`, `DIR` is the folder.
    fn by(spec: &str) -> Self {
        let followed = Self::not_yet();
        followed.source("s", spec);
        followed.platform.up(&[]).ok();
        followed
    }

    /// Nothing runs yet.
    fn not_yet() -> Self {
        let platform = Platform::new();
        let folder = platform.beside("in");
        fs::create_dir(&folder).unwrap();
        Self { platform, folder }
    }

    fn source(&self, name: &str, spec: &str) {
        let spec = spec.replace("DIR", self.folder.to_str().unwrap());
        let yaml = format!(
            "apiVersion: aap/v1\nkind: Source\nmetadata: {{ name: {name} }}\nspec:\n  type: file\n  stream: {name}\n{}",
            spec.lines().map(|line| format!("  {}\n", line.trim())).collect::<String>()
        );
        self.platform.configure(name, &yaml);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn append(&self, name: &str, content: impl AsRef<[u8]>) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(content.as_ref()).unwrap();
    }

    /// The bodies of `stream`, ordered, once there are `count` of them.
    #[track_caller]
    fn bodies(&self, stream: &str, count: usize) -> Vec<String> {
        let rows = self.rows(&format!("select body from \"{stream}\" order by body"), count);
        rows.iter().map(|row| row["body"].as_str().unwrap().to_owned()).collect()
    }

    /// The rows of a statement, once there are `count` of them.
    #[track_caller]
    fn rows(&self, sql: &str, count: usize) -> Vec<Value> {
        let mut rows = Vec::new();
        wait_until(PATIENCE, || {
            let ran = self.platform.aap(&["query", "--wait-for-ingest", "--limit", "0", "-o", "ndjson", sql]);
            rows = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            rows.len() >= count
        });
        assert_eq!(rows.len(), count, "{sql}: {rows:?}");
        rows
    }
}

#[test]
fn globs_choose_files_and_excludes_leave_some_out() {
    let followed = Followed::not_yet();
    for name in ["a.log", "b.txt", "skip.log", "sub/c.log", "sub/deep/d.log", "sub/skip/e.log"] {
        followed.write(name, format!("{name}\n"));
    }
    followed.source("flat", "include: ['DIR/*.log']\nexclude: ['DIR/skip*']");
    followed.source("deep", "include: ['DIR/**/*.log', 'DIR/b.txt']\nexclude: ['DIR/**/skip/**']");
    followed.platform.up(&[]).ok();
    assert_eq!(followed.bodies("flat", 1), ["a.log"]);
    assert_eq!(followed.bodies("deep", 5), ["a.log", "b.txt", "skip.log", "sub/c.log", "sub/deep/d.log"]);
    followed.write("later.log", "later\n");
    followed.write("sub/new/f.log", "f\n");
    assert_eq!(followed.bodies("flat", 2), ["a.log", "later"]);
    assert_eq!(followed.bodies("deep", 7).len(), 7);
}

#[test]
fn lines_of_rotated_truncated_and_compressed_files_are_read_once() {
    let followed = Followed::by("include: ['DIR/app.log*']");
    let mut expected = Vec::new();
    // A copy is recognised by what it holds, which must be more than a few bytes.
    let mut add = |name: &str, text: &str| {
        let text = &format!("{text} {}", ".".repeat(64));
        followed.append(name, format!("{text}\n"));
        expected.push(text.clone());
        expected.sort();
        assert_eq!(followed.bodies("s", expected.len()), expected);
    };
    add("app.log", "first line of the first file");
    fs::rename(followed.path("app.log"), followed.path("app.log.1")).unwrap();
    add("app.log.1", "written after the rename");
    add("app.log", "first line of the second file");
    // Copy and truncate: the copy is a file of its own with known content.
    fs::copy(followed.path("app.log"), followed.path("app.log.2")).unwrap();
    OpenOptions::new().write(true).truncate(true).open(followed.path("app.log")).unwrap();
    add("app.log", "after the truncation");
    // A rotated file is compressed later.
    let packed = std::process::Command::new("gzip").arg(followed.path("app.log.1")).status().unwrap();
    assert!(packed.success() && followed.path("app.log.1.gz").exists());
    add("app.log", "after the compression");
    // History that nobody has read.
    fs::write(followed.path("old"), "from the history\n").unwrap();
    std::process::Command::new("gzip").arg(followed.path("old")).status().unwrap();
    fs::rename(followed.path("old.gz"), followed.path("app.log.9.gz")).unwrap();
    expected.push("from the history".to_owned());
    expected.sort();
    assert_eq!(followed.bodies("s", expected.len()), expected);
    // A restart reads nothing again.
    followed.platform.down().ok();
    followed.append("app.log", "while it was down\n");
    fs::rename(followed.path("app.log"), followed.path("app.log.3")).unwrap();
    followed.append("app.log", "a new file while it was down\n");
    followed.platform.up(&[]).ok();
    expected.extend(["while it was down".to_owned(), "a new file while it was down".to_owned()]);
    expected.sort();
    assert_eq!(followed.bodies("s", expected.len()), expected);
}

#[test]
fn reading_begins_where_it_is_told_and_leaves_old_files_alone() {
    let followed = Followed::not_yet();
    followed.write("a.log", "before\n");
    followed.write("b.old", "ancient\n");
    followed.write("c.old", "recent\n");
    let touched =
        std::process::Command::new("touch").args(["-d", "2 days ago"]).arg(followed.path("b.old")).status();
    assert!(touched.unwrap().success());
    followed.source("at-end", "include: ['DIR/*.log']\nstart: end");
    followed.source("at-beginning", "include: ['DIR/*.log']\nstart: beginning");
    followed.source("young", "include: ['DIR/*.old']\nignore_older: 24h");
    followed.platform.up(&[]).ok();
    assert_eq!(followed.bodies("at-beginning", 1), ["before"]);
    assert_eq!(followed.bodies("young", 1), ["recent"]);
    followed.append("a.log", "after\n");
    followed.write("later.log", "a whole later file\n");
    followed.append("b.old", "it changed\n");
    assert_eq!(followed.bodies("at-end", 2), ["a whole later file", "after"]);
    assert_eq!(followed.bodies("at-beginning", 3), ["a whole later file", "after", "before"]);
    assert_eq!(followed.bodies("young", 3), ["ancient", "it changed", "recent"]);
}

#[test]
fn records_are_lines_however_they_end_and_several_lines_where_told() {
    let followed = Followed::not_yet();
    followed.write("a.log", "crlf\r\nlf\n\nno end");
    followed.write("b.trace", "1 error\n  at a\n  at b\n2 error\r\n  at c\n3 alone");
    followed.write("c.cont", "one\n> more\n> again\ntwo\n");
    followed.source("plain", "include: ['DIR/*.log']");
    followed.source("trace", "include: ['DIR/*.trace']\nmultiline: { start: '^\\d' }");
    followed.source("cont", "include: ['DIR/*.cont']\nmultiline: { continue: '^>' }");
    followed.platform.up(&[]).ok();
    let plain = followed.bodies("plain", 4);
    assert_eq!(plain, ["", "crlf", "lf", "no end"], "the unfinished last line after an idle second");
    assert_eq!(followed.bodies("trace", 3), ["1 error\n  at a\n  at b", "2 error\n  at c", "3 alone"]);
    assert_eq!(followed.bodies("cont", 2), ["one\n> more\n> again", "two"]);
}

#[test]
fn long_lines_are_cut_at_the_limit_and_the_excess_is_counted() {
    let followed = Followed::not_yet();
    followed.write("a.log", format!("{}\nshort\n", "x".repeat(5000)));
    let mut huge = vec![b'y'; 100 << 20];
    huge.extend(b"\nafter the huge one\n");
    followed.write("b.huge", huge);
    followed.source("small", "include: ['DIR/*.log']\nline_bytes_max: 1KiB");
    followed.source("huge", "include: ['DIR/*.huge']");
    followed.platform.up(&[]).ok();
    let lengths: Vec<usize> = followed.bodies("small", 2).iter().map(String::len).collect();
    assert_eq!(lengths, [5, 1024]);
    let rows = followed.rows("select length(body) n from huge order by 1", 2);
    assert_eq!(rows, vec![json!({"n": 18}), json!({"n": 1 << 20})]);
    let cut =
        |stream: &str| followed.platform.metric(&format!("aap_agent_bytes_cut_total{{stream=\"{stream}\"}}"));
    assert_eq!((cut("small") as u64, cut("huge") as u64), (5000 - 1024, 99 << 20));
}

#[test]
fn only_regular_files_are_read_and_a_symlink_is_the_file_it_points_to() {
    let followed = Followed::not_yet();
    followed.write("target", "through the link\n");
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, followed.path(name)).unwrap();
    link(&followed.path("target"), "link.log");
    link(Path::new("/dev/zero"), "zero.log");
    link(Path::new("/dev/stdin"), "stdin.log");
    link(&followed.path("loop.log"), "loop.log");
    link(&followed.path("nowhere"), "dangling.log");
    assert!(std::process::Command::new("mkfifo").arg(followed.path("fifo.log")).status().unwrap().success());
    fs::create_dir(followed.path("folder.log")).unwrap();
    followed.write("zzz.log", "a plain file\n");
    followed.source("s", "include: ['DIR/*.log']");
    followed.platform.up(&[]).ok();
    assert_eq!(followed.bodies("s", 2), ["a plain file", "through the link"]);
    followed.append("zzz.log", "it still reads\n");
    assert_eq!(followed.bodies("s", 3), ["a plain file", "it still reads", "through the link"]);
}

/// One source per format, and what its rows must be.
#[test]
fn lines_of_every_format_become_columns() {
    let followed = Followed::not_yet();
    let uid = "0a1b2c3d-0000-0000-0000-000000000000";
    followed.write(
        "a.json",
        "{\"ts\":\"2026-01-02T03:04:05.5+02:00\",\"level\":\"warn\",\"message\":\"m\",\"n\":1,\"o\":{\"x\":[1]}}\n",
    );
    followed.write("a.logfmt", "ts=2026-01-02T03:04:05Z level=warn msg=\"hello world\" n=5\n");
    followed.write("a.csv", "id,name\r\n1,ann\r\n2,\"b \"\"q\"\" x\"\r\n");
    followed.write(
        "a.access",
        "127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] \"GET /a HTTP/1.0\" 200 2326 \"http://r\" \"UA x\"\n",
    );
    followed.write(
        "a.syslog",
        "<34>1 2003-10-11T22:14:15.003Z host su 77 ID47 [x@1 k=\"v\"] failed\n<13>Oct 11 22:14:15 host app[12]: old style\n",
    );
    followed.write(
        &format!("pods/ns_web-0_{uid}/nginx/0.log"),
        "2016-10-06T00:17:09.669794202Z stdout P part one, \n2016-10-06T00:17:10Z stdout F part two\n2016-10-06T00:17:11Z stderr F err\n",
    );
    followed.write("a.re", "2026-07-01 12:00:00 INFO 5 summer\n2026-01-01 12:00:00 WARN 6 winter\n");
    followed.source("json", "include: ['DIR/*.json']\nformat: json");
    followed.source("logfmt", "include: ['DIR/*.logfmt']\nformat: logfmt\nkeep_raw: true");
    followed.source("csv", "include: ['DIR/*.csv']\nformat: csv");
    followed.source("access", "include: ['DIR/*.access']\nformat: combined");
    followed.source("syslog-file", "include: ['DIR/*.syslog']\nformat: syslog");
    followed.source("cri", "include: ['DIR/pods/**/*.log']\nformat: cri");
    let pattern = r"^(?P<ts>\S+ \S+) (?P<level>\w+) (?P<n>\d+) (?P<message>.*)$";
    followed.source(
        "re",
        &format!(
            "include: ['DIR/*.re']\nformat: regex\npattern: '{pattern}'\ntimestamp: {{ column: ts, format: '%Y-%m-%d %H:%M:%S', zone: Europe/Berlin }}"
        ),
    );
    followed.platform.up(&[]).ok();
    let check =
        |sql: &str, expected: Vec<Value>| assert_eq!(followed.rows(sql, expected.len()), expected, "{sql}");
    check(
        "select ts, n, o ->> '$.x[0]' x from json",
        vec![json!({"ts": "2026-01-02T01:04:05.500Z", "n": 1, "x": "1"})],
    );
    check(
        "select ts, severity, msg, n, body from logfmt",
        vec![json!({"ts": "2026-01-02T03:04:05Z", "severity": "WARN", "msg": "hello world", "n": 5,
            "body": "ts=2026-01-02T03:04:05Z level=warn msg=\"hello world\" n=5"})],
    );
    check(
        "select id, name from csv order by id",
        vec![json!({"id": 1, "name": "ann"}), json!({"id": 2, "name": "b \"q\" x"})],
    );
    check(
        "select ts, remote_addr, remote_user, method, path, status, bytes, referer, user_agent from access",
        vec![
            json!({"ts": "2000-10-10T20:55:36Z", "remote_addr": "127.0.0.1", "remote_user": "frank", "method": "GET",
            "path": "/a", "status": 200, "bytes": 2326, "referer": "http://r", "user_agent": "UA x"}),
        ],
    );
    check(
        "select severity, facility, host, app, procid, msgid, body from \"syslog-file\" order by _row",
        vec![
            json!({"severity": "ERROR", "facility": "auth", "host": "host", "app": "su", "procid": "77", "msgid": "ID47", "body": "failed"}),
            json!({"severity": "INFO", "facility": "user", "host": "host", "app": "app", "procid": "12", "msgid": null, "body": "old style"}),
        ],
    );
    check(
        "select ts, body, stream, namespace, pod, container, resource ->> '$.\"k8s.pod.uid\"' uid from cri order by ts",
        vec![
            json!({"ts": "2016-10-06T00:17:09.669794Z", "body": "part one, part two", "stream": "stdout", "namespace": "ns",
                "pod": "web-0", "container": "nginx", "uid": uid}),
            json!({"ts": "2016-10-06T00:17:11Z", "body": "err", "stream": "stderr", "namespace": "ns",
                "pod": "web-0", "container": "nginx", "uid": uid}),
        ],
    );
    check(
        "select ts, severity, n, body from re order by n",
        vec![
            json!({"ts": "2026-07-01T10:00:00Z", "severity": "INFO", "n": 5, "body": "summer"}),
            json!({"ts": "2026-01-01T11:00:00Z", "severity": "WARN", "n": 6, "body": "winter"}),
        ],
    );
    let model = "select ts, observed_ts, severity, body, attributes, resource from";
    for stream in ["logfmt", "access", "cri", "re", "\"syslog-file\""] {
        followed.platform.aap(&["query", "-o", "ndjson", &format!("{model} {stream}")]).ok();
    }
}

#[test]
fn columns_come_by_name_widen_when_types_conflict_and_what_cannot_be_parsed_keeps_its_text() {
    let followed = Followed::by("include: ['DIR/*.json']\nformat: json");
    followed.append("a.json", "{\"a\":1}\n{\"a\":2,\"b\":true}\nnot json\n");
    assert_eq!(
        followed.rows("select a, b from s order by a", 2),
        vec![json!({"a": 1, "b": null}), json!({"a": 2, "b": true})]
    );
    followed.append("a.json", "{\"a\":2.5}\n");
    assert_eq!(
        followed.rows("select sum(a) s, typeof(sum(a)) t from s having count(*) = 3", 1),
        vec![json!({"s": 5.5, "t": "DOUBLE"})]
    );
    followed.append("a.json", "{\"a\":\"text\",\"c\":{\"d\":1}}\n{\"c\":\n");
    let rows = followed.rows("select cast(a as varchar) a from s where a = 'text'", 1);
    assert_eq!(rows, vec![json!({"a": "text"})]);
    let dead = followed.rows("select text, reason, source, stream from \"s.dead\" order by _seq, _row", 2);
    assert_eq!((&dead[0]["text"], &dead[1]["text"]), (&json!("not json"), &json!("{\"c\":")));
    assert_eq!(
        (&dead[0]["stream"], &dead[0]["source"]),
        (&json!("s"), &json!(followed.path("a.json").to_str().unwrap()))
    );
    assert!(
        dead.iter().all(|row| row["reason"].as_str().is_some_and(|reason| !reason.is_empty())),
        "{dead:?}"
    );
}

#[test]
fn a_changed_configuration_counts_without_stopping_other_sources() {
    let followed = Followed::by("include: ['DIR/*.log']");
    followed.append("a.log", "one\n");
    assert_eq!(followed.bodies("s", 1), ["one"]);
    let agent = followed.platform.pid("agent");
    followed.write("b.txt", "from the second source\n");
    followed.source("second", "include: ['DIR/*.txt']");
    assert_eq!(followed.bodies("second", 1), ["from the second source"]);
    followed.append("a.log", "two\n");
    assert_eq!(followed.bodies("s", 2), ["one", "two"]);

    followed.source("second", "inclde: ['DIR/*.txt']");
    let problem = aap_tests::eventually("the wrong configuration in the status", || {
        let ran = followed.platform.aap(&["status"]);
        let said = ran.out + &ran.err;
        let said: Vec<&str> = said.lines().filter(|line| line.contains("inclde")).collect();
        (!said.is_empty()).then(|| said.join("\n"))
    });
    assert!(problem.contains("second.yaml:"), "{problem}");
    assert_eq!(problem.lines().count(), 1, "said once: {problem}");
    followed.append("a.log", "three\n");
    followed.append("b.txt", "the former configuration is in force\n");
    assert_eq!(followed.bodies("s", 3), ["one", "three", "two"]);
    assert_eq!(followed.bodies("second", 2).len(), 2);

    // Taken away: what comes is no longer read; given back: it goes on where it stopped.
    fs::remove_file(followed.platform.home().join("config/sources.d/second.yaml")).unwrap();
    aap_tests::eventually("the source gone from the status", || {
        let status = followed.platform.aap(&["status", "-o", "json"]).out;
        (!status.contains("\"second\"")
            || !status.contains("exactly-once\",\"kind\":\"file\",\"name\":\"second"))
        .then_some(())
    });
    followed.source("second", "include: ['DIR/*.txt']");
    followed.append("b.txt", "and again\n");
    assert_eq!(followed.bodies("second", 3).len(), 3);
    assert_eq!(followed.platform.pid("agent"), agent, "the agent was not restarted");
}

#[test]
fn sighup_reads_the_configuration_again() {
    let followed = Followed::by("include: ['DIR/*.log']");
    let agent = followed.platform.pid("agent").unwrap();
    let read_again = || followed.platform.log("agent").matches("configuration read again").count();
    let before = read_again();
    followed.platform.signal("agent", aap_tests::Signal::HUP);
    let came = wait_until(PATIENCE, || read_again() > before);
    assert!(came, "{}", followed.platform.log("agent"));
    assert_eq!(followed.platform.pid("agent"), Some(agent));
    followed.append("a.log", "goes on\n");
    assert_eq!(followed.bodies("s", 1), ["goes on"]);
}

#[test]
fn validate_names_what_is_right_and_where_what_is_wrong() {
    let platform = Platform::new();
    let validate = |text: &str| {
        let path = platform.beside("a.yaml");
        fs::write(&path, text).unwrap();
        aap_tests::Ran::of(platform.command("aap-agent").arg("validate").arg(path).output().unwrap())
    };
    let good = "apiVersion: aap/v1\nkind: Source\nmetadata: { name: t }\nspec: { type: file, stream: s, include: ['/var/log/*.log'] }\n";
    let ran = validate(good).ok();
    assert!(ran.out.contains("valid") && ran.out.contains("exactly-once"), "{}", ran.out);
    for (from, to, word) in [
        ("include", "inclde", "include"),
        ("'/var/log/*.log'", "'var/log/*.log'", "absolute"),
        ("kind: Source", "kind: Sorce", "Source"),
        ("aap/v1", "aap/v9", "aap/v1"),
        ("type: file", "type: fiel", "file"),
        ("stream: s", "stream: S", "stream name"),
        ("stream: s", "stream: [", "a.yaml:"),
    ] {
        let ran = validate(&good.replace(from, to)).code(2);
        assert!(ran.err.contains("config.invalid") && ran.err.contains("a.yaml:"), "{}", ran.err);
        assert!(ran.err.contains(word), "`{word}`: {}", ran.err);
    }
    let missing = platform.command("aap-agent").args(["validate", "/nowhere.yaml"]).output().unwrap();
    assert!(aap_tests::Ran::of(missing).code(2).err.contains("/nowhere.yaml"));
}

#[test]
fn syslog_over_udp_and_tcp_becomes_rows() {
    let platform = Platform::new();
    let port = free_port();
    platform.configure(
        "net",
        &format!(
            "apiVersion: aap/v1\nkind: Source\nmetadata: {{ name: net }}\nspec: {{ type: syslog, stream: net, udp: '127.0.0.1:{port}', tcp: '127.0.0.1:{port}' }}\n"
        ),
    );
    platform.up(&[]).ok();
    let address = ("127.0.0.1", port);
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"<34>1 2003-10-11T22:14:15.003Z h su - ID47 - over udp", address).unwrap();
    let mut tcp = std::net::TcpStream::connect(address).unwrap();
    let counted = "<34>1 2003-10-11T22:14:15Z h a - - - as counted";
    writeln!(tcp, "{} {counted}<13>Oct 11 22:14:15 h a: by newline", counted.len()).unwrap();
    let came = wait_until(PATIENCE, || platform.count("select count(*) from net") == 3);
    assert!(came, "{:?}", platform.rows("select body from net"));
    let rows = platform.rows("select body, severity, host from net order by body");
    assert_eq!(
        rows,
        vec![
            json!({"body": "as counted", "severity": "ERROR", "host": "h"}),
            json!({"body": "by newline", "severity": "INFO", "host": "h"}),
            json!({"body": "over udp", "severity": "ERROR", "host": "h"}),
        ]
    );
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn host_metrics_have_the_names_of_opentelemetry() {
    let platform = Platform::started(&[]);
    let came = wait_until(PATIENCE, || platform.count("select count(*) from host_metrics") > 0);
    assert!(came);
    let names: Vec<String> = platform
        .rows("select distinct metric from host_metrics")
        .iter()
        .map(|row| row["metric"].as_str().unwrap().to_owned())
        .collect();
    for name in [
        "system.cpu.time",
        "system.cpu.logical.count",
        "system.cpu.load_average.1m",
        "system.cpu.load_average.5m",
        "system.cpu.load_average.15m",
        "system.memory.usage",
        "system.memory.utilization",
        "system.disk.io",
        "system.disk.operations",
        "system.filesystem.usage",
        "system.filesystem.utilization",
        "system.network.io",
        "system.network.errors",
        "system.process.count",
        "system.uptime",
    ] {
        assert!(names.iter().any(|known| known == name), "`{name}` is not among {names:?}");
    }
    let root = platform.value(
        "select count(*) from host_metrics where metric = 'system.filesystem.usage' and value > 0 and unit = 'By' \
         and (attributes ->> '$.\"system.filesystem.mountpoint\"') = '/'",
    );
    assert!(root.as_u64().unwrap() > 0, "the root file system is measured");
}

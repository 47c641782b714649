use super::*;
use crate::authority::tests::PEM;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.0.path()).unwrap()
    }
    fn with(text: &str) -> Self {
        let folder = Self::new();
        std::fs::write(folder.path().join(FILE), text).unwrap();
        folder
    }
    fn read(&self) -> Contexts {
        Contexts::read(self.path()).unwrap()
    }
    fn text(&self) -> String {
        std::fs::read_to_string(self.path().join(FILE)).unwrap()
    }
}

fn name(text: &str) -> ContextName {
    text.parse().unwrap()
}

fn elsewhere() -> OperatorContext {
    OperatorContext {
        endpoint: Some("coord.example:7401".into()),
        user: Some("ana".into()),
        protection: Protection::Confirm,
        ..OperatorContext::default()
    }
}

#[test]
fn a_context_is_added_used_renamed_and_removed_with_its_authority() {
    let folder = Folder::new();
    let authority = Authority::of(PEM, "x").unwrap();
    let mut contexts = folder.read();
    contexts.add(&name("prod"), &elsewhere(), Some(&authority)).unwrap();
    contexts
        .add(&name("here"), &OperatorContext { home: Some("/srv".into()), ..Default::default() }, None)
        .unwrap();

    let mut contexts = folder.read();
    assert_eq!(
        (contexts.current(), contexts.names()),
        (Some("prod"), vec!["prod", "here"]),
        "the first is current"
    );
    let (_, read) = contexts.get("prod").unwrap();
    let ca = folder.path().join("ca/prod.pem");
    assert_eq!(read, OperatorContext { ca: Some(ca.clone()), ..elsewhere() });
    assert_eq!(std::fs::read_to_string(&ca).unwrap(), PEM);
    assert_eq!(contexts.add(&name("prod"), &elsewhere(), None).unwrap_err().exit, ExitCode::Conflict);

    contexts.rename(&name("prod"), &name("eu")).unwrap();
    assert_eq!((folder.read().current(), ca.exists()), (Some("eu"), false));
    assert_eq!(folder.read().get("eu").unwrap().1.ca.unwrap(), folder.path().join("ca/eu.pem"));
    contexts.set_current(Some("here")).unwrap();
    assert_eq!(contexts.set_current(Some("hre")).unwrap_err().hints[0].text, "did you mean `here`?");
    contexts.remove(&name("here")).unwrap();
    assert_eq!((folder.read().current(), folder.read().names()), (None, vec!["eu"]));
    assert_eq!(contexts.remove(&name("here")).unwrap_err().exit, ExitCode::NotFound);
}

#[test]
fn what_people_wrote_into_the_file_stays() {
    let folder = Folder::with(
        "# mine\ncurrent = 'b' # for now\n\n# the first\n[contexts.a]\nhome = '/a'\n\n# the second\n[contexts.b]\nhome = '/b'  # there\n",
    );
    folder.read().set_current(Some("a")).unwrap();
    let mut contexts = folder.read();
    contexts.rename(&name("b"), &name("c")).unwrap();
    let text = folder.text();
    for comment in [
        "# mine\n",
        "# for now",
        "# the first\n[contexts.a]",
        "# the second\n[contexts.c]",
        "home = '/b'  # there",
    ] {
        assert!(text.contains(comment), "{comment}: {text}");
    }
}

#[test]
fn what_is_wrong_in_the_file_is_said_with_what_may_have_been_meant() {
    for (text, cause, hint) in [
        ("x = [", "", ""),
        ("curent = 'a'", "`curent` is no key of the file", "did you mean `current`?"),
        (
            "[contexts.a]\nprotektion = 'open'",
            "`protektion` is no key of the context `a`",
            "did you mean `protection`?",
        ),
    ] {
        let problem = Contexts::read(Folder::with(text).path()).unwrap_err();
        assert_eq!((problem.code.as_str(), problem.exit), ("context.file", ExitCode::Usage), "{text}");
        assert!(problem.causes[0].contains(cause), "{problem:?}");
        assert!(hint.is_empty() || problem.hints[0].text == hint, "{problem:?}");
    }
    for (text, code) in [
        ("[contexts.a]\nprotection = 'shut'", "context.file"),
        ("[contexts.a]\nuser = 7", "context.file"),
        ("[contexts.a]\nendpoint = 'a b'", "context.bad_endpoint"),
        ("contexts.a = 1", "context.file"),
    ] {
        assert_eq!(Folder::with(text).read().get("a").unwrap_err().code, code, "{text}");
    }
}

#[test]
fn names_are_names_of_files_and_nothing_else() {
    for good in ["prod-eu", "a", "7", "a.b_c"] {
        assert_eq!(name(good).as_str(), good);
    }
    for bad in ["", ".", "..", "-a", "A", "a/b", "a b", &"x".repeat(65)] {
        assert_eq!(bad.parse::<ContextName>().unwrap_err().code, "context.bad_name", "{bad}");
    }
}

#[test]
fn an_endpoint_is_a_host_and_a_port() {
    for (text, expected) in [
        ("coord.example:7401", "coord.example:7401"),
        ("coord.example", "coord.example:7401"),
        ("https://coord.example:1/", "coord.example:1"),
        ("[::1]:7", "[::1]:7"),
        ("10.0.0.1", "10.0.0.1:7401"),
        ("srv+_aap._tcp.example", "srv+_aap._tcp.example"),
        ("consul+http://127.0.0.1:8500/aap?tag=eu", "consul+http://127.0.0.1:8500/aap?tag=eu"),
    ] {
        assert_eq!(endpoint(text).unwrap(), expected, "{text}");
    }
    for bad in [
        "",
        ":7401",
        "http://coord:1",
        "a b",
        "coord:x",
        "coord:70000",
        "coord:0",
        "me@coord:1",
        "coord:1/x",
        "srv+",
        "consul+http://a",
    ] {
        assert_eq!(endpoint(bad).unwrap_err().code, "context.bad_endpoint", "{bad}");
    }
}

#[test]
fn an_exported_context_is_imported_whole_and_without_files_of_this_machine() {
    let authority = Authority::of(PEM, "x").unwrap();
    let text =
        exported(&name("prod"), &OperatorContext { home: Some("/h".into()), ..elsewhere() }, &authority);
    assert!(!text.contains("home"), "{text}");
    assert_eq!(imported(&text, Utf8Path::new("f")).unwrap(), (elsewhere(), authority));
    for wrong in [
        "",
        "[contexts.a]\nendpoint = 'a'",
        &format!("{text}\n[contexts.b]"),
        &text.replace("endpoint", "endpiont"),
    ] {
        assert_eq!(imported(wrong, Utf8Path::new("f")).unwrap_err().code, "context.file", "{wrong}");
    }
}

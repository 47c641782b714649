//! Documents of kind Role, and permissions as text.

use aap_runtime::documents::documents;

use crate::{Kind, Permission, Role, Verb};

fn read(name: &str, spec: &str) -> Result<Role, (usize, String)> {
    let text = format!("apiVersion: aap/v1\nkind: Role\nmetadata: {{ name: {name} }}\nspec:\n{spec}");
    let document = documents("roles.yaml".into(), &text).remove(0);
    Role::read(&document, name)
        .map_err(|error| (error.line, format!("{} ({})", error.message, error.hint.unwrap_or_default())))
}

#[test]
fn a_role_is_read_as_it_is_written() {
    let spec = "  allow:\n  - { resources: [node, stream], verbs: ['*'], names: ['web-*'] }\n  \
                deny:\n  - resources: ['*']\n    verbs: [delete]\n    labels: { site: [berlin, paris] }\n";
    let role = read("web", spec).unwrap();
    assert_eq!((role.allow.len(), role.deny.len()), (1, 1));
    assert_eq!(role.deny[0].labels.as_ref().unwrap()["site"], ["berlin", "paris"]);
}

#[test]
fn what_is_wrong_with_a_role_is_told_with_its_line_and_what_was_meant() {
    let many =
        format!("  allow:\n  - {{ resources: [node], verbs: [read], names: [{}] }}\n", "a, ".repeat(101));
    for (name, spec, line, expected) in [
        (
            "web",
            "  alow: []\n",
            5,
            "unknown field `alow`, expected `allow` or `deny` (did you mean `allow`?)",
        ),
        ("web", "  allow:\n  - { resorces: [node], verbs: [read] }\n", 6, "did you mean `resources`?"),
        ("web", "  allow:\n  - { resources: [strem], verbs: [read] }\n", 6, "did you mean `stream`?"),
        ("web", "  allow:\n  - resources: [node]\n    verbs: [qery]\n", 7, "did you mean `query`?"),
        ("web", "  allow:\n  - resources: [node]\n", 6, "missing field `verbs`"),
        ("web", "  allow:\n  - resources: []\n    verbs: [read]\n", 6, "`resources` is empty"),
        ("web", "  allow:\n  - resources: [node]\n    verbs: [read]\n    names: []\n", 8, "`names` is empty"),
        (
            "web",
            "  deny:\n  - resources: [node]\n    verbs: [read]\n    labels: {}\n",
            8,
            "`labels` is empty",
        ),
        ("web", "  deny:\n  - resources: [node]\n    verbs: [read]\n    labels: { a: [] }\n", 8, "is empty"),
        ("web", "  allow:\n  - { resources: [node], verbs: [read], names: [''] }\n", 6, "1 to 256 bytes"),
        ("web", "  allow: []\n", 4, "the role has no rule"),
        ("web", &many, 6, "`names` has more than 100 entries"),
        ("admin", "  allow:\n  - { resources: [node], verbs: [read] }\n", 3, "built in"),
    ] {
        let (at, message) = read(name, spec).unwrap_err();
        assert!(message.contains(expected), "{spec}: {message}");
        assert_eq!(at, line, "{spec}: {message}");
    }
}

#[test]
fn a_condition_with_nothing_behind_it_is_not_a_condition_that_is_left_out() {
    for key in ["names", "labels"] {
        for nothing in ["", "null", "~"] {
            let spec = format!("  allow:\n  - resources: [node]\n    verbs: [read]\n    {key}: {nothing}\n");
            assert!(read("web", &spec).is_err(), "{spec}");
        }
    }
}

#[test]
fn a_permission_is_a_kind_and_a_verb_or_one_on_whatever_kind() {
    for kind in Kind::ALL {
        for verb in Verb::ALL {
            let permission = Permission::on(*kind, *verb);
            assert_eq!(permission.to_string().parse(), Ok(permission));
        }
    }
    assert_eq!("resource:write".parse(), Ok(Permission::on_resource(Verb::Write)));
    for (text, meant) in [("strem:read", Some("stream")), ("stream:raed", Some("read")), ("*:read", None)] {
        assert_eq!(text.parse::<Permission>().unwrap_err().meant, meant, "{text}");
    }
    for text in ["stream", "", "stream:", ":read", "stream:read:", "Stream:read"] {
        assert!(text.parse::<Permission>().is_err(), "{text}");
    }
}

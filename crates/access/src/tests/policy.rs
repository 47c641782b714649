//! Decisions against a reference that knows nothing of them: it reads roles as JSON and has no order, no early end, no types.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{Because, Kind, Labels, NodeFacts, Object, Policy, Principal, Reach, Role, Verb};

const KINDS: [Kind; 3] = [Kind::Node, Kind::Stream, Kind::Sink];
const VERBS: [Verb; 3] = [Verb::Read, Verb::Query, Verb::Delete];

fn words(of: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop::collection::vec(prop::sample::select(of), 1..3).prop_map(|words| json!(words))
}

fn rule() -> impl Strategy<Value = Value> {
    let names = prop::option::of(prop::collection::vec("[ab*?]{1,4}", 1..3));
    let values = prop::collection::vec("[xy]", 1..3);
    let labels = prop::option::of(prop::collection::btree_map("site|rack", values, 1..3));
    let resources = words(&["node", "node", "stream", "sink", "*"]);
    (resources, words(&["read", "query", "delete", "*"]), names, labels).prop_map(
        |(resources, verbs, names, labels)| {
            let mut rule = json!({ "resources": resources, "verbs": verbs });
            if let Some(names) = names {
                rule["names"] = json!(names);
            }
            if let Some(labels) = labels {
                rule["labels"] = json!(labels);
            }
            rule
        },
    )
}

fn role() -> impl Strategy<Value = Value> {
    let rules = |most| prop::collection::vec(rule(), 0..most);
    (rules(4), rules(2)).prop_map(|(allow, deny)| json!({ "allow": allow, "deny": deny }))
}

/// A principal's roles, what limits their token, and the object.
#[derive(Debug, Clone)]
struct Case {
    roles: Vec<Value>,
    scope: Option<Value>,
    kind: Kind,
    verb: Verb,
    name: String,
    site: Option<String>,
    labels: Labels,
}

fn case() -> impl Strategy<Value = Case> {
    (
        prop::collection::vec(role(), 0..4),
        prop::option::of(role()),
        prop::sample::select(&KINDS[..]),
        prop::sample::select(&VERBS[..]),
        "[ab]{0,4}",
        prop::option::of("[xy]".prop_map(String::from)),
        prop::collection::btree_map("site|rack", "[xy]", 0..3),
    )
        .prop_map(|(roles, scope, kind, verb, name, site, labels)| Case {
            roles,
            scope,
            kind,
            verb,
            name,
            site,
            labels,
        })
}

fn glob(pattern: &str, name: &str) -> bool {
    let rest = |text: &str| text.chars().skip(1).collect::<String>();
    match (pattern.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), None) => glob(&rest(pattern), name),
        (Some('*'), Some(_)) => glob(&rest(pattern), name) || glob(pattern, &rest(name)),
        (Some(p), Some(n)) => (p == '?' || p == n) && glob(&rest(pattern), &rest(name)),
        _ => false,
    }
}

/// Whether a rule holds for a case.
fn holds(rule: &Value, case: &Case) -> bool {
    let any = |list: &Value, is: &dyn Fn(&str) -> bool| {
        list.as_array().unwrap().iter().any(|one| is(one.as_str().unwrap()))
    };
    let mut labels: BTreeMap<&str, &str> =
        case.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    labels.extend(case.site.as_deref().map(|site| ("site", site)));
    let named = rule.get("names").is_none_or(|names| any(names, &|name| glob(name, &case.name)));
    let labelled = rule.get("labels").is_none_or(|wanted| {
        let wanted = wanted.as_object().unwrap();
        wanted.iter().all(|(key, values)| any(values, &|value| labels.get(key.as_str()) == Some(&value)))
    });
    any(&rule["resources"], &|kind| kind == "*" || kind == case.kind.as_str())
        && any(&rule["verbs"], &|verb| verb == "*" || verb == case.verb.as_str())
        && named
        && labelled
}

/// The reference: all rules of all roles; one that denies is enough, and one that allows is needed.
fn reference(roles: &[Value], case: &Case) -> bool {
    let held = |effect: &str| {
        let rules = roles.iter().flat_map(|role| role[effect].as_array().unwrap());
        rules.filter(|rule| holds(rule, case)).count()
    };
    held("deny") == 0 && held("allow") > 0
}

fn policy(roles: &[Value]) -> Policy {
    let read = |role: &Value| serde_json::from_value::<Role>(role.clone()).unwrap();
    Policy::new(roles.iter().enumerate().map(|(at, role)| (format!("r{at}"), read(role))))
}

fn principal(roles: usize, scope: Option<&Value>) -> Principal {
    let scope = scope.map(|scope| serde_json::from_value(scope.clone()).unwrap());
    let roles = (0..roles).map(|at| format!("r{at}")).collect();
    Principal { roles, scope, ..Principal::operator() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_decision_is_that_of_the_reference_and_so_is_the_reach(case in case()) {
        let policy = policy(&case.roles);
        let who = principal(case.roles.len(), case.scope.as_ref());
        let object =
            Object { kind: case.kind, name: &case.name, site: case.site.as_deref(), labels: &case.labels };
        let by_roles = reference(&case.roles, &case);
        let by_scope = case.scope.as_ref().is_none_or(|scope| reference(std::slice::from_ref(scope), &case));
        let made = policy.decide(&who, case.verb, &object);
        prop_assert_eq!(made.allowed, by_roles && by_scope);
        prop_assert_eq!(policy.reach(&who, case.kind, case.verb).admits(object), made.allowed);
        prop_assert_eq!(policy.who_can([&who], case.verb, &object).len(), usize::from(made.allowed));

        let names = |effect: &str, role: &str, rule: usize| {
            let at: usize = role[1..].parse().unwrap();
            holds(&case.roles[at][effect][rule - 1], &case)
        };
        let is_told = match &made.because {
            Because::Allows { role, rule } => made.allowed && names("allow", role, *rule),
            Because::Denies { role, rule } => names("deny", role, *rule),
            Because::NothingAllows => !by_roles,
            Because::BeyondScope => by_roles && !by_scope,
            Because::UnknownRole(_) | Because::MustChangePassword => false,
        };
        prop_assert!(is_told, "{:?}", made);
    }

    #[test]
    fn rows_are_those_of_each_role_by_itself_without_what_any_denies(case in case(), node in "[ab]{1,4}") {
        let policy = policy(&case.roles);
        let who = principal(case.roles.len(), case.scope.as_ref());
        let rows = policy.rows(&who, &case.name);
        let stream = Case { kind: Kind::Stream, verb: Verb::Query, site: None, labels: Labels::new(), ..case.clone() };
        // A node has a site, be it the empty one.
        let site = Some(case.site.clone().unwrap_or_default());
        let of_node = Case { kind: Kind::Node, verb: Verb::Query, name: node.clone(), site, ..case.clone() };
        let by = |roles: &[Value]| {
            let held = |effect: &str, of: &Case| {
                roles.iter().any(|role| role[effect].as_array().unwrap().iter().any(|rule| holds(rule, of)))
            };
            let lets_through = |role: &Value| {
                let allow = role["allow"].as_array().unwrap();
                let is_about_nodes = |rule: &Value| {
                    let any = Case { name: String::new(), ..of_node.clone() };
                    let mut bare = rule.clone();
                    for condition in ["names", "labels"] {
                        bare.as_object_mut().unwrap().remove(condition);
                    }
                    holds(&bare, &any)
                };
                allow.iter().any(|rule| holds(rule, &stream))
                    && (!allow.iter().any(is_about_nodes) || allow.iter().any(|rule| holds(rule, &of_node)))
            };
            !held("deny", &stream) && !held("deny", &of_node) && roles.iter().any(lets_through)
        };
        let expected = by(&case.roles)
            && case.scope.as_ref().is_none_or(|scope| by(std::slice::from_ref(scope)));
        let (name, site) = (node.parse().unwrap(), case.site.as_ref().map(|site| site.parse().unwrap()));
        let facts = NodeFacts { node: &name, site: site.as_ref(), labels: &case.labels };
        prop_assert_eq!(rows.admits(facts), expected);
        prop_assert!(!rows.is_all() || expected);
        prop_assert!(!policy.sees_all_rows(&who) || rows.is_all());
        prop_assert!(!rows.is_none() || !expected);
    }

    #[test]
    fn a_role_is_the_same_after_it_was_written_down(role in role()) {
        let read: Role = serde_json::from_value(role).unwrap();
        let written = serde_json::to_string(&read).unwrap();
        prop_assert_eq!(serde_json::from_str::<Role>(&written).unwrap(), read);
    }
}

fn allowed(roles: &[&str], verb: Verb, object: &Object<'_>) -> bool {
    let who =
        Principal { roles: roles.iter().map(|role| (*role).to_owned()).collect(), ..Principal::operator() };
    Policy::new([]).decide(&who, verb, object).allowed
}

#[test]
fn the_built_in_roles_are_what_they_say() {
    use Kind::*;
    for kind in Kind::ALL {
        for verb in Verb::ALL {
            let object = Object::named(*kind, "x");
            let of_people = matches!(kind, User | Role | Token | Audit);
            let is_read = *verb == Verb::Read && !of_people && *kind != Secret;
            let is_query = *verb == Verb::Query && matches!(kind, Node | Stream | Catalog);
            for (role, expected) in [
                ("admin", true),
                ("operator", !of_people),
                ("viewer", is_read),
                ("analyst", is_read || is_query),
                ("ingester", *kind == Stream && *verb == Verb::Ingest),
            ] {
                assert_eq!(allowed(&[role], *verb, &object), expected, "{role} {verb} {kind}");
            }
            assert!(!allowed(&[], *verb, &object), "nobody {verb} {kind}");
        }
    }
}

#[test]
fn built_in_roles_cannot_be_replaced_and_a_missing_role_allows_nothing() {
    let all: Role =
        serde_json::from_value(json!({ "allow": [{ "resources": ["*"], "verbs": ["*"] }] })).unwrap();
    let policy = Policy::new([("viewer".to_owned(), all)]);
    let who = |roles: &[&str]| {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        Principal { roles, ..Principal::operator() }
    };
    let stream = Object::named(Kind::Stream, "logs");
    assert_eq!(
        policy.decide(&who(&["viewer"]), Verb::Delete, &stream).because.to_string(),
        "no rule allows it"
    );
    let made = policy.decide(&who(&["admin"]), Verb::Delete, &stream);
    assert_eq!(made.because.to_string(), "rule 1 of `allow` in role `admin`");
    let lost = who(&["admin", "lost"]);
    let made = policy.decide(&lost, Verb::Read, &stream);
    assert_eq!((made.allowed, made.because), (false, Because::UnknownRole("lost".to_owned())));
    assert_eq!(policy.reach(&lost, Kind::Stream, Verb::Read), Reach::None);
    let fresh = Principal { must_change_password: true, ..who(&["admin"]) };
    assert_eq!(policy.decide(&fresh, Verb::Read, &stream).because, Because::MustChangePassword);
    assert_eq!(policy.reach(&fresh, Kind::Node, Verb::Query), Reach::None);
}

#[test]
fn a_role_without_a_word_of_nodes_lets_all_rows_through_and_a_second_role_takes_none_away() {
    let of = |allow: Value| json!({ "allow": allow, "deny": [] });
    let roles = [
        of(json!([{ "resources": ["stream"], "verbs": ["query"], "names": ["logs"] }])),
        of(json!([
            { "resources": ["stream"], "verbs": ["query"] },
            { "resources": ["node"], "verbs": ["query"], "labels": { "site": ["berlin"] } },
        ])),
    ];
    let policy = policy(&roles);
    let rows = |roles: &[&str], stream: &str| {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        policy.rows(&Principal { roles, ..Principal::operator() }, stream)
    };
    assert!(rows(&["r0"], "logs").is_all() && rows(&["r0"], "web").is_none());
    assert!(rows(&["r0", "r1"], "logs").is_all());
    let sees_all = |role: &str| {
        policy.sees_all_rows(&Principal { roles: vec![role.to_owned()], ..Principal::operator() })
    };
    assert!(sees_all("analyst") && sees_all("operator") && !sees_all("r0") && !sees_all("viewer"));
    let berlin = rows(&["r0", "r1"], "web");
    assert!(!berlin.is_all() && !berlin.is_none());
    assert!(rows(&["admin"], "logs").is_all() && rows(&["analyst"], "logs").is_all());
    assert!(rows(&["viewer"], "logs").is_none() && rows(&[], "logs").is_none());
}

#[test]
fn a_node_is_told_by_its_site_and_not_by_what_it_calls_its_site() {
    let role = json!({
        "allow": [{ "resources": ["node"], "verbs": ["query"], "labels": { "site": ["berlin"] } }],
        "deny": [{ "resources": ["node"], "verbs": ["*"], "names": ["*-secret"] }],
    });
    let policy = policy(&[role]);
    let scope = policy.reach(&principal(1, None), Kind::Node, Verb::Query);
    let labels: Labels = [("site".to_owned(), "berlin".to_owned())].into();
    for (node, site, expected) in [
        ("n1", Some("berlin"), true),
        ("n1", Some("paris"), false),
        ("n1", None, false),
        ("n1-secret", Some("berlin"), false),
    ] {
        let (node, site) = (node.parse().unwrap(), site.map(|site| site.parse().unwrap()));
        let facts = NodeFacts { node: &node, site: site.as_ref(), labels: &labels };
        assert_eq!(scope.admits(facts), expected, "{facts:?}");
    }
    assert_eq!(policy.reach(&principal(1, None), Kind::Stream, Verb::Query), Reach::None);
    let everything = policy.reach(&Principal::operator(), Kind::Node, Verb::Query);
    assert_eq!(everything, Reach::All);
    let node = "n1".parse().unwrap();
    assert_eq!(policy.reach(&Principal::node(&node), Kind::Node, Verb::Query), Reach::None);
}

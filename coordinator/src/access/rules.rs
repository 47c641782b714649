//! What each call needs. A call without a line here does not compile: [`Call`] is made from the definition of the services.

use aap_access::{Kind, Permission, Verb};
use aap_proto::Call;

/// What a caller needs so that a service sees the call at all. Services then look at the objects that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nothing: whoever calls wants to show who they are.
    Open,
    /// To be known: it is about whoever calls.
    Known,
    /// This, on one object at least.
    Needs(Permission),
    /// One of these, on one object at least.
    AnyOf(&'static [Permission]),
}

/// Whoever asks with SQL, or looks after those who do.
const OF_QUERIES: &[Permission] = &[
    Permission::on(Kind::Stream, Verb::Query),
    Permission::on(Kind::Catalog, Verb::Query),
    Permission::on(Kind::Query, Verb::Read),
    Permission::on(Kind::Query, Verb::Operate),
];

const fn needs(kind: Kind, verb: Verb) -> Rule {
    Rule::Needs(Permission::on(kind, verb))
}

const fn needs_resource(verb: Verb) -> Rule {
    Rule::Needs(Permission::on_resource(verb))
}

/// The rule of a call.
pub(crate) const fn rule(call: Call) -> Rule {
    match call {
        Call::AccessLogIn | Call::AccessStartLogin | Call::AccessFinishLogin => Rule::Open,
        // One's own sessions, tokens and rights; those of others are looked at by the service.
        Call::AccessLogOut
        | Call::AccessWhoAmI
        | Call::AccessChangePassword
        | Call::AccessListSessions
        | Call::AccessEndSessions
        | Call::AccessCreateApiToken
        | Call::AccessListApiTokens
        | Call::AccessRevokeApiTokens
        | Call::AccessCanI
        | Call::AccessListRoots => Rule::Known,

        Call::AccessShowAuthority => needs(Kind::Platform, Verb::Read),
        Call::AccessRotateAuthority => needs(Kind::Platform, Verb::Write),

        Call::AccessCreateEnrolmentToken | Call::AccessRevokeEnrolmentToken | Call::AccessSetNodeState => {
            needs(Kind::Node, Verb::Approve)
        }
        Call::AccessListEnrolmentTokens | Call::AccessListNodeIdentities | Call::OperatorListNodes => {
            needs(Kind::Node, Verb::Read)
        }
        Call::AccessLabelNode => needs(Kind::Node, Verb::Write),
        Call::AccessListUsers | Call::AccessWhoCan => needs(Kind::User, Verb::Read),
        Call::AccessCreateUser | Call::AccessChangeUser => needs(Kind::User, Verb::Write),
        Call::AccessDeleteUser => needs(Kind::User, Verb::Delete),
        Call::AccessListRoles => needs(Kind::Role, Verb::Read),

        Call::AuditRead | Call::AuditVerify | Call::AuditExport => needs(Kind::Audit, Verb::Read),

        Call::SecretsSet => needs(Kind::Secret, Verb::Write),
        Call::SecretsList => needs(Kind::Secret, Verb::Read),
        Call::SecretsRemove => needs(Kind::Secret, Verb::Delete),

        Call::OperatorStatus => needs(Kind::Platform, Verb::Read),
        Call::OperatorListStreams | Call::OperatorShowStream | Call::OperatorListStreamFiles => {
            needs(Kind::Stream, Verb::Read)
        }
        Call::OperatorDeleteStream => needs(Kind::Stream, Verb::Delete),
        Call::OperatorTailStream => needs(Kind::Stream, Verb::Query),
        // And one's own queries are one's own.
        Call::OperatorRunQuery | Call::OperatorListQueries | Call::OperatorCancelQuery => {
            Rule::AnyOf(OF_QUERIES)
        }

        Call::ResourcesApply => needs_resource(Verb::Write),
        Call::ResourcesGet => needs_resource(Verb::Read),
        Call::ResourcesDelete => needs_resource(Verb::Delete),
        Call::ResourcesListSinks => needs(Kind::Sink, Verb::Read),
        Call::ResourcesListDeadLetters => needs(Kind::Sink, Verb::Query),
        Call::ResourcesTestSink
        | Call::ResourcesPauseSink
        | Call::ResourcesResumeSink
        | Call::ResourcesReplayDeadLetters => needs(Kind::Sink, Verb::Operate),
        Call::ResourcesPurgeDeadLetters => needs(Kind::Sink, Verb::Delete),
        Call::ResourcesShowCluster => needs(Kind::Cluster, Verb::Read),
    }
}

/// The permission that a record of the call names.
pub(crate) const fn permission(call: Call) -> Option<Permission> {
    match rule(call) {
        Rule::Needs(permission) => Some(permission),
        Rule::Open | Rule::Known | Rule::AnyOf(_) => None,
    }
}

/// What a call that changes something is recorded as, in the words of the command line; `None` where it only looks.
pub(crate) const fn action(call: Call) -> Option<&'static str> {
    match call {
        Call::AccessLogIn | Call::AccessFinishLogin => Some("auth login"),
        Call::AccessLogOut => Some("auth logout"),
        Call::AccessChangePassword => Some("auth password"),
        Call::AccessEndSessions => Some("auth session end"),
        Call::AccessCreateEnrolmentToken => Some("token create"),
        Call::AccessRevokeEnrolmentToken => Some("token revoke"),
        Call::AccessSetNodeState => Some("node standing"),
        Call::AccessLabelNode => Some("node label"),
        Call::AccessRotateAuthority => Some("ca rotate"),
        Call::AccessCreateUser => Some("user create"),
        Call::AccessChangeUser => Some("user set"),
        Call::AccessDeleteUser => Some("user delete"),
        Call::AccessCreateApiToken => Some("token create --api"),
        Call::AccessRevokeApiTokens => Some("token revoke --api"),
        Call::OperatorDeleteStream => Some("stream delete"),
        Call::OperatorCancelQuery => Some("query cancel"),
        Call::ResourcesApply => Some("apply"),
        Call::ResourcesDelete => Some("delete"),
        Call::ResourcesTestSink => Some("sink test"),
        Call::ResourcesPauseSink => Some("sink pause"),
        Call::ResourcesResumeSink => Some("sink resume"),
        Call::ResourcesReplayDeadLetters => Some("sink dlq replay"),
        Call::ResourcesPurgeDeadLetters => Some("sink dlq purge"),
        Call::SecretsSet => Some("secret set"),
        Call::SecretsRemove => Some("secret rm"),
        // Nobody has logged in by that yet.
        Call::AccessStartLogin
        | Call::SecretsList
        | Call::AccessListEnrolmentTokens
        | Call::AccessListNodeIdentities
        | Call::AccessWhoAmI
        | Call::AccessListSessions
        | Call::AccessListUsers
        | Call::AccessListRoles
        | Call::AccessListApiTokens
        | Call::AccessCanI
        | Call::AccessWhoCan
        | Call::AccessShowAuthority
        | Call::AccessListRoots
        | Call::AuditRead
        | Call::AuditVerify
        | Call::AuditExport
        | Call::OperatorStatus
        | Call::OperatorListNodes
        | Call::OperatorListStreams
        | Call::OperatorShowStream
        | Call::OperatorListStreamFiles
        | Call::OperatorTailStream
        | Call::OperatorRunQuery
        | Call::OperatorListQueries
        | Call::ResourcesGet
        | Call::ResourcesListSinks
        | Call::ResourcesListDeadLetters
        | Call::ResourcesShowCluster => None,
    }
}

/// What a call that answers rows is recorded as: once, at the end of its answer.
pub(crate) const fn statement(call: Call) -> Option<&'static str> {
    match call {
        Call::OperatorRunQuery => Some("query run"),
        Call::OperatorTailStream => Some("stream tail"),
        _ => None,
    }
}

/// The call of a path, if it is one.
pub(crate) fn call_of(path: &str) -> Option<Call> {
    Call::ALL.into_iter().find(|call| call.path() == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_logging_in_needs_nothing_and_only_what_is_ones_own_needs_no_role() {
        let of = |wanted: Rule| Call::ALL.into_iter().filter(move |call| rule(*call) == wanted);
        let open = [Call::AccessLogIn, Call::AccessStartLogin, Call::AccessFinishLogin];
        assert_eq!(of(Rule::Open).collect::<Vec<_>>(), open);
        assert_eq!(of(Rule::Known).count(), 10);
        for call in Call::ALL {
            assert_eq!(call_of(call.path()), Some(call));
        }
        assert_eq!(call_of("/aap.v1.Access/Nothing"), None);
    }
}

//! Who asks.

use std::fmt;

use aap_types::{CoordinatorName, NodeId};

use crate::{IssuedId, Role, User};

/// How somebody is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// By the operator's token of the home, on the machine itself.
    Operator,
    /// By a session.
    User,
    /// By an API token.
    ApiToken,
    /// By a node's certificate.
    Node,
    /// By a coordinator's certificate.
    Coordinator,
}

impl PrincipalKind {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::User => "user",
            Self::ApiToken => "api-token",
            Self::Node => "node",
            Self::Coordinator => "coordinator",
        }
    }
}

/// Who asks, with everything that decides what they may. Whoever keeps a decision keeps it by the whole of this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// How they are known.
    pub kind: PrincipalKind,
    /// Their name; of an API token its owner's.
    pub name: String,
    /// Their roles; of an API token its owner's, as they are now.
    pub roles: Vec<String>,
    /// What an API token is limited to, beside what its owner may; `None`: to that.
    pub scope: Option<Role>,
    /// The session or API token that was shown.
    pub credential: Option<IssuedId>,
    /// Whether they may do nothing before they have changed their password.
    pub must_change_password: bool,
}

impl Principal {
    fn new(kind: PrincipalKind, name: &str, roles: &[String]) -> Self {
        let (name, roles) = (name.to_owned(), roles.to_vec());
        Self { kind, name, roles, scope: None, credential: None, must_change_password: false }
    }

    /// Whoever has the operator's token of the home: may do everything.
    pub fn operator() -> Self {
        Self::new(PrincipalKind::Operator, "operator", &["admin".to_owned()])
    }

    /// A node. It has no roles: what nodes may is the protocol's to say, and nothing here.
    pub fn node(node: &NodeId) -> Self {
        Self::new(PrincipalKind::Node, node.as_str(), &[])
    }

    /// A coordinator of the cluster. It has no roles either.
    pub fn coordinator(name: &CoordinatorName) -> Self {
        Self::new(PrincipalKind::Coordinator, name.as_str(), &[])
    }

    /// A user as they stand, whatever they show: for whoever asks what they may.
    pub fn user(user: &User) -> Self {
        let must_change_password = user.must_change_password;
        Self { must_change_password, ..Self::new(PrincipalKind::User, user.name.as_str(), &user.roles) }
    }

    /// A user, or one of their tokens.
    pub(crate) fn of_user(kind: PrincipalKind, name: &str, roles: &[String], credential: &IssuedId) -> Self {
        Self { credential: Some(credential.clone()), ..Self::new(kind, name, roles) }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind.as_str(), self.name)
    }
}

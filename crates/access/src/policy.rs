//! All roles, and what they say about an action.

use std::collections::BTreeMap;
use std::fmt;

use crate::built_in::built_in;
use crate::reach::Rules;
use crate::{Kind, Object, Principal, Reach, Role, Rows, Verb};

/// All roles, as of one moment. Make a new one when roles change.
#[derive(Debug, Clone)]
pub struct Policy {
    roles: BTreeMap<String, Role>,
}

/// What was decided, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be done.
    pub allowed: bool,
    /// Why, or why not.
    pub because: Because,
}

/// Why something may be done, or not. Rules are counted from 1, as they stand in their list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// This rule of `allow`.
    Allows {
        /// Of this role.
        role: String,
        /// Its number.
        rule: usize,
    },
    /// This rule of `deny`.
    Denies {
        /// Of this role.
        role: String,
        /// Its number.
        rule: usize,
    },
    /// Nothing allows it.
    NothingAllows,
    /// Their roles allow it, and the API token that was shown was not made for it.
    BeyondScope,
    /// They have a role that is not there. What it denied is not known, so nothing is allowed.
    UnknownRole(String),
    /// They have to change their password first.
    MustChangePassword,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allows { role, rule } => write!(f, "rule {rule} of `allow` in role `{role}`"),
            Self::Denies { role, rule } => write!(f, "rule {rule} of `deny` in role `{role}`"),
            Self::NothingAllows => f.write_str("no rule allows it"),
            Self::BeyondScope => f.write_str("the API token was not made for it"),
            Self::UnknownRole(role) => write!(f, "the role `{role}` does not exist"),
            Self::MustChangePassword => f.write_str("the password has to be changed first"),
        }
    }
}

impl Policy {
    /// The roles that were declared, and those that are always there.
    pub fn new(declared: impl IntoIterator<Item = (String, Role)>) -> Self {
        let mut roles: BTreeMap<_, _> = declared.into_iter().collect();
        roles.extend(built_in());
        Self { roles }
    }

    /// The roles by name.
    pub fn roles(&self) -> &BTreeMap<String, Role> {
        &self.roles
    }

    /// Whether somebody may do something to an object: a rule that denies wins, then one that allows, else they may not.
    pub fn decide(&self, principal: &Principal, verb: Verb, object: &Object<'_>) -> Decision {
        let denied = |because| Decision { allowed: false, because };
        let roles = match self.roles_of(principal) {
            Ok(roles) => roles,
            Err(because) => return denied(because),
        };
        let holds = |(name, rules): (&str, &[crate::Rule])| {
            let at =
                rules.iter().position(|rule| rule.is_about(object.kind, verb) && rule.selects(object))?;
            Some((name.to_owned(), at + 1))
        };
        if let Some((role, rule)) = roles.iter().find_map(|(name, role)| holds((name, &role.deny))) {
            return denied(Because::Denies { role, rule });
        }
        let Some((role, rule)) = roles.iter().find_map(|(name, role)| holds((name, &role.allow))) else {
            return denied(Because::NothingAllows);
        };
        let is_within =
            |scope: &Role| holds(("", &scope.deny)).is_none() && holds(("", &scope.allow)).is_some();
        if !principal.scope.as_ref().is_none_or(is_within) {
            return denied(Because::BeyondScope);
        }
        Decision { allowed: true, because: Because::Allows { role, rule } }
    }

    /// Those of `principals` who may do something to an object, each with the reason.
    pub fn who_can<'a>(
        &self,
        principals: impl IntoIterator<Item = &'a Principal>,
        verb: Verb,
        object: &Object<'_>,
    ) -> Vec<(&'a Principal, Because)> {
        let decided =
            principals.into_iter().map(|principal| (principal, self.decide(principal, verb, object)));
        decided.filter(|(_, made)| made.allowed).map(|(principal, made)| (principal, made.because)).collect()
    }

    /// The objects of a kind that somebody may do something to: [`Reach::admits`] says of each what [`Self::decide`] says.
    pub fn reach(&self, principal: &Principal, kind: Kind, verb: Verb) -> Reach {
        let Ok(roles) = self.roles_of(principal) else { return Reach::None };
        let own = Rules::about(roles.iter().map(|(_, role)| *role), kind, verb);
        let scope = principal.scope.as_ref().map(|scope| Rules::about([scope], kind, verb));
        Reach::of([Some(own), scope].into_iter().flatten())
    }

    /// The rows of a stream that somebody may see.
    pub fn rows(&self, principal: &Principal, stream: &str) -> Rows {
        let Ok(roles) = self.roles_of(principal) else { return Rows::none() };
        let roles: Vec<&Role> = roles.into_iter().map(|(_, role)| role).collect();
        Rows::of(&roles, principal.scope.as_ref(), stream)
    }

    /// Whether somebody sees every row of every stream.
    pub fn sees_all_rows(&self, principal: &Principal) -> bool {
        let Ok(roles) = self.roles_of(principal) else { return false };
        let roles: Vec<&Role> = roles.into_iter().map(|(_, role)| role).collect();
        Rows::are_all(&roles) && principal.scope.as_ref().is_none_or(|scope| Rows::are_all(&[scope]))
    }

    fn roles_of<'a>(&'a self, principal: &'a Principal) -> Result<Vec<(&'a str, &'a Role)>, Because> {
        if principal.must_change_password {
            return Err(Because::MustChangePassword);
        }
        let role = |name: &'a String| match self.roles.get(name) {
            Some(role) => Ok((name.as_str(), role)),
            None => Err(Because::UnknownRole(name.clone())),
        };
        principal.roles.iter().map(role).collect()
    }
}

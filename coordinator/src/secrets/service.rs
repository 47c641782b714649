//! The service `Secrets`. There is no call that gives a value out: what is kept is for sinks, sources and catalogs, and whoever set it
//! has it.

use std::sync::Arc;

use aap_access::{KeptSecret, Kind, Object, SECRET_BYTES_MAX, Verb};
use aap_proto::status_of_problem;
use aap_proto::v1::{self, secrets_server::Secrets as Api};
use aap_runtime::{Secret, SecretPlace};
use aap_store::{ResourceRecord, ResourceStore};
use aap_types::{Problem, SecretName};
use tonic::{Request, Response, Status};

use super::{Secrets, problem};
use crate::access::Caller;
use crate::resources::{object, secrets_of};
use crate::sinks::{self, Sinks, blocking};

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SecretsService {
    pub(crate) secrets: Secrets,
    /// What is declared, and may refer to them.
    pub(crate) resources: Arc<dyn ResourceStore>,
    pub(crate) sinks: Sinks,
}

impl SecretsService {
    async fn declared(&self) -> Result<Vec<ResourceRecord>, Problem> {
        let resources = self.resources.clone();
        blocking(move || resources.resources()).await
    }

    async fn set_now(&self, caller: &Caller, request: v1::SetSecretRequest) -> Result<KeptSecret, Problem> {
        let v1::SetSecretRequest { name, value } = request;
        let value = Secret::from(value);
        let name = name_of(&name)?;
        caller.require(Verb::Write, Object::named(Kind::Secret, name.as_str()))?;
        match value.reveal().len() {
            0 => return Err(problem::bad_value("it is empty")),
            length if length > SECRET_BYTES_MAX => {
                return Err(problem::bad_value("it is longer than 64 KiB"));
            }
            _ => {}
        }
        let kept = self.secrets.set(name.clone(), value, caller.name()).await?;
        self.wake(&name).await;
        Ok(kept)
    }

    /// Makes sinks that refer to it look again at once: they may wait for just this.
    async fn wake(&self, name: &SecretName) {
        let declared = self.declared().await.unwrap_or_default();
        for sink in users(&declared, name).filter(|record| record.kind == sinks::KIND) {
            if let Err(problem) = self.sinks.poke(&sink.name) {
                tracing::debug!(sink = sink.name, %problem, "a sink that refers to a secret does not run here");
            }
        }
    }

    async fn remove_now(
        &self,
        caller: &Caller,
        request: v1::RemoveSecretRequest,
    ) -> Result<KeptSecret, Problem> {
        let name = name_of(&request.name)?;
        let all = self.secrets.list().await?;
        let unknown = || {
            let seen = all
                .iter()
                .filter(|kept| caller.may(Verb::Read, Object::named(Kind::Secret, kept.name.as_str())));
            problem::not_found(&name, &seen.map(|kept| kept.name.as_str()).collect::<Vec<_>>())
        };
        caller.require_of(Verb::Delete, Object::named(Kind::Secret, name.as_str()), unknown)?;
        let kept = self.secrets.find(name.clone()).await?.ok_or_else(unknown)?;
        let declared = self.declared().await?;
        let users: Vec<&ResourceRecord> = users(&declared, &name).collect();
        if !users.is_empty() && !request.force {
            let seen = seen(caller, users.iter().copied());
            return Err(problem::in_use(&name, &seen, users.len() - seen.len()));
        }
        match self.secrets.remove(name.clone()).await? {
            true => Ok(kept),
            false => Err(unknown()),
        }
    }

    async fn list_now(&self, caller: &Caller) -> Result<Vec<v1::KeptSecret>, Problem> {
        let (declared, keys) = (self.declared().await?, self.secrets.key_ids().await);
        let reach = caller.reach(Kind::Secret, Verb::Read);
        let mut kept = self.secrets.list().await?;
        kept.retain(|kept| reach.admits(Object::named(Kind::Secret, kept.name.as_str())));
        Ok(kept.iter().map(|kept| wire(caller, kept, &declared, &keys)).collect())
    }

    async fn view(&self, caller: &Caller, kept: &KeptSecret) -> Result<Response<v1::SecretReply>, Status> {
        let declared = self.declared().await.map_err(refuse)?;
        let keys = self.secrets.key_ids().await;
        Ok(Response::new(v1::SecretReply { secret: Some(wire(caller, kept, &declared, &keys)) }))
    }
}

fn name_of(name: &str) -> Result<SecretName, Problem> {
    name.parse().map_err(|error: aap_types::NameError| problem::bad_name(&error))
}

/// What is declared and refers to a secret.
fn users<'a>(
    declared: &'a [ResourceRecord],
    name: &'a SecretName,
) -> impl Iterator<Item = &'a ResourceRecord> {
    let refers = move |record: &&ResourceRecord| {
        secrets_of(record)
            .iter()
            .any(|secret| matches!(secret.place(), Some(SecretPlace::Kept(kept)) if kept == name))
    };
    declared.iter().filter(refers)
}

/// As far as somebody may see them.
fn seen<'a>(caller: &Caller, users: impl Iterator<Item = &'a ResourceRecord>) -> Vec<String> {
    let seen = users.filter(|user| caller.may(Verb::Read, object(&user.kind, &user.name)));
    seen.map(|user| format!("{}/{}", user.kind.to_lowercase(), user.name)).collect()
}

fn wire(caller: &Caller, kept: &KeptSecret, declared: &[ResourceRecord], keys: &[String]) -> v1::KeptSecret {
    let is_locked = !keys.iter().any(|key| key == kept.key());
    v1::KeptSecret {
        name: kept.name.to_string(),
        revision: kept.revision,
        author: kept.author.clone(),
        created_us: kept.created_us,
        updated_us: kept.updated_us,
        used_by: seen(caller, users(declared, &kept.name)),
        key: kept.key().to_owned(),
        state: if is_locked { "locked" } else { "kept" }.to_owned(),
    }
}

fn refuse(problem: Problem) -> Status {
    status_of_problem(&problem)
}

#[tonic::async_trait]
impl Api for SecretsService {
    async fn set(&self, request: Request<v1::SetSecretRequest>) -> Result<Response<v1::SecretReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let kept = self.set_now(&caller, request.into_inner()).await.map_err(refuse)?;
        self.view(&caller, &kept).await
    }

    async fn list(
        &self,
        request: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        Ok(Response::new(v1::ListSecretsReply { secrets: self.list_now(&caller).await.map_err(refuse)? }))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveSecretRequest>,
    ) -> Result<Response<v1::SecretReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let kept = self.remove_now(&caller, request.into_inner()).await.map_err(refuse)?;
        self.view(&caller, &kept).await
    }
}

//! Kept secrets, from memory: one, called `pg`.

use aap_client::status_of_problem;
use aap_client::v1::secrets_server::Secrets;
use aap_client::v1::*;
use aap_types::{ExitCode, Problem};
use tonic::{Request, Response, Status};

use super::Fake;

fn kept(name: &str) -> KeptSecret {
    KeptSecret {
        name: name.to_owned(),
        revision: 1,
        author: "ana".into(),
        created_us: 1_700_000_000_000_000,
        updated_us: 1_700_000_000_000_000,
        used_by: vec!["sink/orders".into()],
        key: "00ff".into(),
        state: "kept".into(),
    }
}

fn reply(name: &str) -> Response<SecretReply> {
    Response::new(SecretReply { secret: Some(kept(name)) })
}

#[tonic::async_trait]
impl Secrets for Fake {
    async fn set(&self, request: Request<SetSecretRequest>) -> Result<Response<SecretReply>, Status> {
        let request = request.into_inner();
        self.state.lock().unwrap().last_secret = Some(request.clone());
        Ok(reply(&request.name))
    }

    async fn list(&self, _: Request<ListSecretsRequest>) -> Result<Response<ListSecretsReply>, Status> {
        let keeps_nothing = self.state.lock().unwrap().keeps_nothing;
        let secrets = if keeps_nothing { vec![] } else { vec![kept("pg")] };
        Ok(Response::new(ListSecretsReply { secrets }))
    }

    async fn remove(&self, request: Request<RemoveSecretRequest>) -> Result<Response<SecretReply>, Status> {
        let request = request.into_inner();
        let refused = |code, exit| {
            let problem =
                Problem::new(code, exit, format!("`{}`", request.name)).hint("as the platform says");
            Err(status_of_problem(&problem))
        };
        match (request.name.as_str(), request.force) {
            ("pg", true) => Ok(reply("pg")),
            ("pg", false) => refused("secret.in_use", ExitCode::Conflict),
            _ => refused("secret.not_found", ExitCode::NotFound),
        }
    }
}

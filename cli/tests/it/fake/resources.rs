//! Declared objects and one sink, from memory.

use std::collections::BTreeMap;

use aap_client::status_of_problem;
use aap_client::v1::resources_server::Resources;
use aap_client::v1::*;
use aap_types::{ExitCode, Problem};
use tonic::{Request, Response, Status};

use super::Fake;

/// What stands as the sink `orders`.
pub(crate) const ORDERS: &str = "\
# to the warehouse
apiVersion: aap/v1
kind: Sink
metadata: { name: orders }
spec:
  streams: [orders]
  postgres:
    url: postgres://warehouse/db
    table: orders
";

/// What the fake platform has been told, and holds.
pub(crate) struct Declared {
    /// Documents by name; all are sinks.
    pub(crate) documents: BTreeMap<String, String>,
    pub(crate) last_apply: Option<ApplyRequest>,
    pub(crate) last_letters: Option<ListDeadLettersRequest>,
    /// Calls that change something, such as `pause orders`.
    pub(crate) calls: Vec<String>,
    /// The problem of the sink.
    pub(crate) problem: Option<Problem>,
    /// A test of the sink never comes to an end.
    pub(crate) test_hangs: bool,
    /// Deleting the object of this name fails.
    pub(crate) keeps: Option<String>,
}

impl Default for Declared {
    fn default() -> Self {
        let documents = BTreeMap::from([("orders".to_owned(), ORDERS.to_owned())]);
        Self {
            documents,
            last_apply: None,
            last_letters: None,
            calls: vec![],
            problem: None,
            test_hangs: false,
            keeps: None,
        }
    }
}

fn no_resource(kind: &str, name: &str) -> Status {
    let message = format!("there is no {} `{name}`", kind.to_lowercase());
    status_of_problem(
        &Problem::new("resource.not_found", ExitCode::NotFound, message)
            .hint_command("see which there are", "aap get"),
    )
}

fn check_kind(kind: &str) -> Result<(), Status> {
    let known = kind.is_empty() || ["sink", "sinks", "role"].contains(&kind.to_lowercase().as_str());
    let problem =
        Problem::new("resource.unknown_kind", ExitCode::Usage, format!("there is no kind `{kind}`"))
            .hint("did you mean `Sink`?");
    if known { Ok(()) } else { Err(status_of_problem(&problem)) }
}

/// The name in a document that is written in one line or has `name:` on a line.
fn name_of(text: &str) -> Option<String> {
    let rest = text.split("name:").nth(1)?;
    Some(rest.trim_start().split([' ', '\n', '}']).next()?.to_owned())
}

impl Fake {
    fn check_sink(&self, request: Request<SinkRequest>, what: &str) -> Result<String, Status> {
        let name = request.into_inner().name;
        let mut state = self.state.lock().unwrap();
        if !state.declared.documents.contains_key(&name) {
            return Err(no_sink(&name));
        }
        state.declared.calls.push(format!("{what} {name}"));
        Ok(name)
    }
}

fn no_sink(name: &str) -> Status {
    status_of_problem(
        &Problem::new("sink.not_found", ExitCode::NotFound, format!("there is no sink `{name}`"))
            .hint_command("see which there are", "aap sink ls"),
    )
}

#[tonic::async_trait]
impl Resources for Fake {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyReply>, Status> {
        let request = request.into_inner();
        let declared = &mut self.state.lock().unwrap().declared;
        declared.last_apply = Some(request.clone());
        let mut changes = Vec::new();
        for file in &request.files {
            let Some(name) = name_of(&file.text) else {
                let message = format!("{}:2: unknown field `nmae`", file.path);
                let problem = Problem::new("config.invalid", ExitCode::Usage, message);
                return Err(status_of_problem(&problem.hint("did you mean `name`?")));
            };
            let before = declared.documents.get(&name).cloned().unwrap_or_default();
            let action = match before.as_str() {
                "" => "created",
                same if same == file.text => "unchanged",
                _ => "changed",
            };
            let warnings =
                if name == "loose" { vec!["no stream is called `lose*` yet".to_owned()] } else { vec![] };
            if !request.dry_run {
                declared.documents.insert(name.clone(), file.text.clone());
            }
            changes.push(Change {
                kind: "Sink".into(),
                name,
                action: action.into(),
                revision: 3,
                before,
                after: file.text.clone(),
                warnings,
            });
        }
        Ok(Response::new(ApplyReply { changes }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        let GetRequest { kind, name } = request.into_inner();
        check_kind(&kind)?;
        let documents = self.state.lock().unwrap().declared.documents.clone();
        if !name.is_empty() && !documents.contains_key(&name) {
            return Err(no_resource(&kind, &name));
        }
        let resources = documents
            .into_iter()
            .filter(|(found, _)| name.is_empty() || *found == name)
            .map(|(name, document)| Resource {
                kind: "Sink".into(),
                name,
                revision: 2,
                author: "operator".into(),
                created_us: 1,
                updated_us: 1_700_000_000_000_000,
                document,
            })
            .collect();
        Ok(Response::new(GetReply { resources }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        let DeleteRequest { kind, name } = request.into_inner();
        let declared = &mut self.state.lock().unwrap().declared;
        if declared.keeps.as_ref() == Some(&name) {
            let problem = Problem::new("resource.conflict", ExitCode::Conflict, "somebody else changed it");
            return Err(status_of_problem(&problem.hint_command("look at it", "aap get")));
        }
        match declared.documents.remove(&name) {
            Some(_document) => Ok(Response::new(DeleteReply { kind, name })),
            None => Err(no_resource(&kind, &name)),
        }
    }

    async fn list_sinks(
        &self,
        request: Request<ListSinksRequest>,
    ) -> Result<Response<ListSinksReply>, Status> {
        let wanted = request.into_inner().name;
        let state = self.state.lock().unwrap();
        let problem = &state.declared.problem;
        let sink = |name: &String| SinkStatus {
            name: name.clone(),
            kind: "postgres".into(),
            target: "warehouse/db orders".into(),
            guarantee: "exactly-once".into(),
            state: if problem.is_some() { "refused" } else { "running" }.into(),
            problem: problem.as_ref().map(|p| serde_json::to_string(p).unwrap()).unwrap_or_default(),
            rows: 1234,
            rows_per_second: 5.0,
            written_us: 1_700_000_000_000_000,
            dead_letters: 3,
            waiting_batches: 2,
            revision: 2,
            streams: vec![SinkStream {
                stream: "orders".into(),
                waiting_batches: 2,
                rows: 1234,
                positions: vec![SinkPosition {
                    node: "web-01".into(),
                    epoch: 1 << 60,
                    through: 7,
                    landed: 9,
                }],
            }],
        };
        let names = state.declared.documents.keys().filter(|name| wanted.is_empty() || **name == wanted);
        Ok(Response::new(ListSinksReply { sinks: names.map(sink).collect() }))
    }

    async fn test_sink(&self, request: Request<SinkRequest>) -> Result<Response<TestSinkReply>, Status> {
        self.check_sink(request, "test")?;
        let hangs = self.state.lock().unwrap().declared.test_hangs;
        if hangs {
            std::future::pending::<()>().await;
        }
        if let Some(problem) = &self.state.lock().unwrap().declared.problem {
            return Err(status_of_problem(problem));
        }
        let found = vec!["PostgreSQL 15.6 at warehouse".into(), "table `orders`: 10 columns".into()];
        Ok(Response::new(TestSinkReply { found, guarantee: "exactly-once".into() }))
    }

    async fn pause_sink(&self, request: Request<SinkRequest>) -> Result<Response<SinkReply>, Status> {
        let name = self.check_sink(request, "pause")?;
        Ok(Response::new(SinkReply { name, state: "paused".into() }))
    }

    async fn resume_sink(&self, request: Request<SinkRequest>) -> Result<Response<SinkReply>, Status> {
        let name = self.check_sink(request, "resume")?;
        Ok(Response::new(SinkReply { name, state: "starting".into() }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersReply>, Status> {
        let request = request.into_inner();
        let declared = &mut self.state.lock().unwrap().declared;
        if !declared.documents.contains_key(&request.name) {
            return Err(no_sink(&request.name));
        }
        let letter = |row: u64| DeadLetter {
            node: "web-01".into(),
            epoch: 1 << 60,
            stream: "orders".into(),
            sequence: 7,
            row,
            reason: "value too long for type character varying(3)".into(),
            at_us: 1_700_000_000_000_000,
            document: format!("{{\"id\":{row},\"text\":\"\\u001b[31mlong\"}}"),
        };
        let sent = if request.limit == 0 { 3 } else { request.limit.min(3) };
        declared.last_letters = Some(request);
        Ok(Response::new(ListDeadLettersReply { letters: (0..sent).map(letter).collect(), total: 3 }))
    }

    async fn replay_dead_letters(
        &self,
        request: Request<SinkRequest>,
    ) -> Result<Response<ReplayReply>, Status> {
        self.check_sink(request, "replay")?;
        Ok(Response::new(ReplayReply { rows: 3 }))
    }

    async fn purge_dead_letters(
        &self,
        request: Request<SinkRequest>,
    ) -> Result<Response<PurgeReply>, Status> {
        self.check_sink(request, "purge")?;
        Ok(Response::new(PurgeReply { rows: 3 }))
    }

    async fn show_cluster(
        &self,
        _: Request<ShowClusterRequest>,
    ) -> Result<Response<ShowClusterReply>, Status> {
        let coordinator = |name: &str, leads, lease_left_ms| ClusterCoordinator {
            name: name.into(),
            agents: format!("{name}.example:7400"),
            version: "0.1.0".into(),
            is_this: leads,
            leads,
            shards: if leads { vec![0, 7, 63] } else { vec![] },
            lease_left_ms,
        };
        Ok(Response::new(ShowClusterReply {
            cluster: "prod".into(),
            coordinators: vec![coordinator("c1", true, 12_400), coordinator("c2", false, 0)],
            unowned_shards: (1..7).chain(8..63).collect(),
            metadata: "schema `aap` at postgres://aap@db/aap".into(),
            landing: "topic `aap-landing` at k:9092".into(),
            lake: "s3://lake/aap".into(),
            config: "name: prod\ncoordinator: c1\n".into(),
            problems: vec!["leases: the metadata store does not answer".into()],
        }))
    }
}

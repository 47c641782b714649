//! Where the landing topic is, and whether that makes sense.

use aap_runtime::SecretRef;
use aap_sinks::Failure;
use serde::{Deserialize, Serialize};

use super::SHARDS;
use crate::failure;
use crate::settings::Settings;
use crate::spec::{Compression, KafkaSpec, Sasl, Tls};

/// Where a cluster of coordinators lands what its nodes send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LandingSpec {
    /// Some brokers of the Kafka cluster, each `host:port`; they tell of the others.
    pub brokers: Vec<String>,
    /// The topic, which only this cluster of coordinators writes to. Default: `aap-landing`.
    #[serde(default = "topic")]
    pub topic: String,
    /// Copies of the topic, when it is made. Default: 3; with `allow_unreplicated`, what the brokers do by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<i32>,
    /// Whether the topic may have fewer than 3 replicas, or `min.insync.replicas` below 2: a lost disk loses rows then that were
    /// acknowledged. Default: it may not.
    #[serde(default)]
    pub allow_unreplicated: bool,
    /// Speaks TLS. `{}` trusts the authorities of the system. Default: no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Logs in. Default: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
}

fn topic() -> String {
    "aap-landing".to_owned()
}

impl LandingSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.sasl.iter().map(|sasl| sasl.password.clone()).collect()
    }

    /// Whether it makes sense, as far as that can be told without the cluster.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), String> {
        let access = self.access()?;
        if !access.topic.is_fixed() {
            return Err("`topic` holds `{stream}`, and all streams land in one topic".to_owned());
        }
        access.validate().map_err(|error| error.to_string())
    }

    /// The same access as a sink has it, to a topic that is made if it is missing.
    pub(super) fn access(&self) -> Result<KafkaSpec, String> {
        let topic = self.topic.parse().map_err(|error: aap_sinks::TemplateError| error.to_string())?;
        Ok(KafkaSpec {
            create: true,
            partitions: SHARDS,
            replication: self.replication,
            allow_unreplicated: self.allow_unreplicated,
            // What lands is compressed already.
            compression: Compression::None,
            ..KafkaSpec::access(self.brokers.clone(), topic, self.tls.clone(), self.sasl.clone())
        })
    }

    /// The group that librdkafka wants of readers; nobody joins it.
    pub(super) fn reader_id(&self) -> String {
        format!("aap.landing.{}", self.topic)
    }

    /// What a client of this name needs. Reads the secrets.
    pub(super) fn settings(&self, name: &str, id: String) -> Result<Settings, Failure> {
        let unusable = |why: String| failure::setting("a setting of the landing topic is not usable", why);
        self.check().map_err(unusable)?;
        Settings::new(name, id, &self.access().map_err(unusable)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(more: &str, expected: &str) {
        let text = format!("brokers: ['b:9092']\n{more}");
        let found = match serde_norway::from_str::<LandingSpec>(&text) {
            Ok(spec) => spec.check().err().unwrap_or_else(|| "fine".to_owned()),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{more}: {found}");
    }

    #[test]
    fn a_short_spec_has_the_documented_defaults() {
        let spec: LandingSpec = serde_norway::from_str("brokers: ['b:9092']").unwrap();
        assert_eq!(spec.check(), Ok(()));
        assert_eq!(
            (spec.topic.as_str(), spec.replication, spec.allow_unreplicated),
            ("aap-landing", None, false)
        );
        let again: LandingSpec = serde_norway::from_str(&serde_norway::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn what_cannot_work_is_told_before_a_connection_is_made() {
        check("topic: landing.of-berlin", "fine");
        check("topic: 'landing.{stream}'", "all streams land in one topic");
        check("topic: 'a b'", "no name of a topic");
        check("topic: ''", "empty");
        check("replication: 1", "allow_unreplicated");
        check("replication: 1\nallow_unreplicated: true", "fine");
        check("replication: 5", "fine");
        check("tls: { key: /k.pem }", "belong together");
        check("partitions: 3", "unknown field");
    }
}

//! Where this coordinator says where it is.

use std::sync::Arc;

use aap_runtime::SecretRef;
use aap_services::{ConsulSpec, Registration};
use serde::{Deserialize, Serialize};

use crate::config::Advertised;

/// The section `discovery` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiscoveryConfig {
    /// In Consul. Default: nowhere.
    pub consul: Option<ConsulSpec>,
}

impl DiscoveryConfig {
    pub(crate) fn check(&self) -> Result<(), String> {
        match &self.consul {
            Some(spec) => spec.check().map_err(|why| format!("discovery.consul: {why}")),
            None => Ok(()),
        }
    }

    /// Every secret that it refers to.
    pub(crate) fn secrets(&self) -> Vec<SecretRef> {
        self.consul.iter().flat_map(ConsulSpec::secrets).collect()
    }

    /// What is to be kept in Consul of the coordinator `who`, if anything.
    pub(crate) fn registration(
        &self,
        who: &str,
        at: &Advertised,
    ) -> Result<Option<Arc<Registration>>, String> {
        let spec = self.consul.as_ref();
        let made = spec.map(|spec| Registration::new(spec, who, &at.agents, &at.operators).map(Arc::new));
        made.transpose()
    }
}

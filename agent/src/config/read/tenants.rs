//! `[tenants.NAME]`, and how they relate.

use super::Reader;
use crate::config::document::{Value, join};
use crate::config::key;
use crate::config::settings::{Settings, TenantSettings};
use crate::gate::policy::Rate;
use crate::limits::TENANTS_MAX;
use crate::shard::tenant::DEFAULT;

impl Reader {
    pub(super) fn tenants(&mut self) -> Vec<TenantSettings> {
        let names: Vec<String> = match self.document.table("tenants") {
            None => return Vec::new(),
            Some((entries, _)) => entries
                .iter()
                .filter(|entry| matches!(entry.value, Value::Table(_)))
                .map(|entry| entry.key.clone())
                .collect(),
        };
        if names.len() > TENANTS_MAX
            && let Some((_, place)) = self.document.table("tenants")
        {
            let place = place.clone();
            self.document.mistake(
                &place,
                format!(
                    "{} tenants, where at most {TENANTS_MAX} may be",
                    names.len()
                ),
                format!("remove {}", names.len() - TENANTS_MAX),
                None,
            );
        }
        names.iter().map(|name| self.tenant(name)).collect()
    }

    fn tenant(&mut self, name: &str) -> TenantSettings {
        TenantSettings {
            name: name.to_owned(),
            sources: self.given(&key::TENANT_SOURCES, name).unwrap_or_default(),
            producers: self.given(&key::TENANT_PRODUCERS, name).unwrap_or_default(),
            weight: self.value(&key::TENANT_WEIGHT, name),
            rate: self.tenant_rate(name),
            bytes_in_flight: self.given(&key::TENANT_BYTES_IN_FLIGHT, name),
            journal_percent: self.given(&key::TENANT_JOURNAL_SHARE, name),
        }
    }

    fn tenant_rate(&mut self, name: &str) -> Option<Rate> {
        let rate = self.given(&key::TENANT_RATE, name);
        let burst = self.given(&key::TENANT_BURST, name);
        let (rate_path, burst_path) = (
            key::TENANT_RATE.path_of(name),
            key::TENANT_BURST.path_of(name),
        );
        match (rate, burst) {
            (Some(sustained), Some(burst)) => Some(Rate { sustained, burst }),
            (Some(sustained), None) => {
                let burst = (key::TENANT_BURST.show)(&sustained.saturating_mul(2));
                self.lonely(
                    &rate_path,
                    &burst_path,
                    format!("add burst = {burst}, say: what may come at once, here of two seconds"),
                );
                None
            }
            (None, Some(burst)) => {
                let rate = (key::TENANT_RATE.show)(&burst.div_ceil(2));
                self.lonely(
                    &burst_path,
                    &rate_path,
                    format!("add rate = {rate}, say: what may come for good"),
                );
                None
            }
            (None, None) => None,
        }
    }

    /// One of a pair is given; where the other is wrong that was said already.
    fn lonely(&mut self, given: &str, missing: &str, help: String) {
        if self.wrong.contains(missing) {
            return;
        }
        let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
        let message = format!("{given} is nothing without {}", last(missing));
        self.contradiction(&[given], message, help);
    }

    /// Nobody belongs to two tenants, and everybody to one that is named.
    pub(super) fn tenant_relations(&mut self, settings: &Settings) {
        for (at, tenant) in settings.tenants.iter().enumerate() {
            let path = join("tenants", &tenant.name);
            let (sources, producers) = (join(&path, "sources"), join(&path, "producers"));
            let names_nobody = tenant.sources.is_empty() && tenant.producers.is_empty();
            if tenant.name == DEFAULT && !names_nobody {
                let given = [sources.as_str(), producers.as_str()];
                let message = format!("{path} is everybody whom no other tenant names");
                let help = "remove sources and producers here, or give the table another name";
                self.contradiction(&given, message, help.to_owned());
                continue;
            }
            let is_wrong = self.wrong.contains(&sources) || self.wrong.contains(&producers);
            if tenant.name != DEFAULT && names_nobody && !is_wrong {
                let Some(place) = self.document.place(&path).cloned() else {
                    continue;
                };
                self.document.mistake(
                    &place,
                    format!("{path} names nobody"),
                    "add sources = [\"10.0.0.0/8\"] or producers = [\"0x1122334455667788\"]",
                    None,
                );
            }
            for earlier in &settings.tenants[..at] {
                let theirs = join("tenants", &earlier.name);
                let same = tenant
                    .sources
                    .iter()
                    .find(|own| earlier.sources.contains(own));
                if let Some(prefix) = same {
                    let message = format!("{sources} has {prefix}, which {theirs} already has");
                    let help = "keep one; within a wider prefix a longer one may say otherwise";
                    self.contradiction(
                        &[&sources, &join(&theirs, "sources")],
                        message,
                        help.to_owned(),
                    );
                }
                let mut ids = tenant.producers.iter();
                if let Some(id) = ids.find(|own| earlier.producers.contains(own)) {
                    let message = format!("{producers} has {id:#018x}, which {theirs} already has");
                    self.contradiction(
                        &[&producers, &join(&theirs, "producers")],
                        message,
                        "keep one of the two".to_owned(),
                    );
                }
            }
        }
    }
}

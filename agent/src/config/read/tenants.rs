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

#[cfg(test)]
mod tests {
    use crate::config::settings::{Settings, TenantSettings};
    use crate::config::{parse, show};
    use crate::gate::policy::{Prefix, Rate};

    fn settings(text: &str) -> Settings {
        parse("penstock.toml", text).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    #[test]
    fn tenants_are_read_and_what_is_shown_reads_back() {
        let given = settings(
            "[tenants.default]\nrate = \"5k/s\"\nburst = \"10k\"\n\
             [tenants.billing]\nsources = [\"10.1.0.0/16\"]\nproducers = [\"0x11\", \"18\"]\n\
             weight = 3\nbytes_in_flight = \"32MiB\"\njournal_share = \"25%\"\n",
        );
        let address = "10.1.0.0".parse().expect("an address");
        assert_eq!(
            given.tenants,
            [
                TenantSettings {
                    rate: Some(Rate {
                        sustained: 5_000,
                        burst: 10_000,
                    }),
                    ..TenantSettings::unlimited("default")
                },
                TenantSettings {
                    sources: vec![Prefix { address, len: 16 }],
                    producers: vec![17, 18],
                    weight: 3,
                    bytes_in_flight: Some(32 << 20),
                    journal_percent: Some(25),
                    ..TenantSettings::unlimited("billing")
                },
            ]
        );
        assert_eq!(settings(&show(&given)), given);
        assert!(settings("").tenants.is_empty());
    }

    #[test]
    fn each_mistake_says_what_would_be_right() {
        let one = "[tenants.one]\nproducers = [\"0x11\"]\n";
        for (text, expected) in [
            ("[tenants.one]\nweight = 2\n", "names nobody"),
            (
                "[tenants.default]\nsources = [\"10.0.0.0/8\"]\n",
                "everybody whom no other",
            ),
            (&format!("{one}rate = \"5k/s\"\n"), "add burst = \"10k\""),
            (&format!("{one}burst = \"5k\"\n"), "is nothing without rate"),
            (
                &format!("{one}rate = \"20M/s\"\nburst = \"1\"\n"),
                "out of range",
            ),
            (&format!("{one}weight = 0\n"), "from 1 to 1000"),
            (&format!("{one}journal_share = \"0%\"\n"), "0% is no share"),
            (
                &format!("{one}bytes_in_flight = \"1KiB\"\n"),
                "from \"2MiB\"",
            ),
            (
                &format!("{one}sources = [\"10.0.0.1/8\"]\n"),
                "bits beyond its length",
            ),
            (
                &format!("{one}[tenants.two]\nproducers = [\"17\"]\n"),
                "tenants.one already has",
            ),
            ("[tenants.one]\nproducers = [\"0\"]\n", "0 is nobody's id"),
            (
                "[tenants.one]\nproduces = [\"1\"]\n",
                "did you mean producers?",
            ),
        ] {
            let wrong = parse("penstock.toml", text).expect_err(text).to_string();
            assert!(wrong.contains(expected), "{text}:\n{wrong}");
        }
    }
}

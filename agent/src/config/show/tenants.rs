//! `[tenants.NAME]` as TOML.

use super::{line, put};
use crate::config::key;
use crate::config::settings::TenantSettings;

pub(super) fn tenants(out: &mut String, tenants: &[TenantSettings]) {
    for tenant in tenants {
        put(out, format_args!("\n[tenants.{}]\n", tenant.name));
        if !tenant.sources.is_empty() {
            line(out, &key::TENANT_SOURCES, &tenant.sources);
        }
        if !tenant.producers.is_empty() {
            line(out, &key::TENANT_PRODUCERS, &tenant.producers);
        }
        line(out, &key::TENANT_WEIGHT, &tenant.weight);
        if let Some(rate) = &tenant.rate {
            line(out, &key::TENANT_RATE, &rate.sustained);
            line(out, &key::TENANT_BURST, &rate.burst);
        }
        if let Some(bytes) = &tenant.bytes_in_flight {
            line(out, &key::TENANT_BYTES_IN_FLIGHT, bytes);
        }
        if let Some(percent) = &tenant.journal_percent {
            line(out, &key::TENANT_JOURNAL_SHARE, percent);
        }
    }
}

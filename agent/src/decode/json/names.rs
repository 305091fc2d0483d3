//! Which member is which field: our names, and the usual others (`proto/RECORDS.md` has the table).

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Nanoseconds, whatever their magnitude.
    TimeUnixNano,
    /// A time in whatever notation loggers use.
    Time,
    /// OpenTelemetry's number, or a word.
    SeverityNumber,
    /// A word. Numbers under these names have a dozen meanings (syslog counts down from 7, bunyan
    /// up in tens), so a guess would be wrong more often than right.
    SeverityWord,
    ServiceName,
    Body,
    HostName,
    Attributes,
    TraceId,
    SpanId,
    None,
}

/// Names are compared as they are, case included.
#[inline(always)]
pub fn field(name: &str) -> Field {
    match name {
        "time_unix_nano" | "timeUnixNano" => Field::TimeUnixNano,
        "timestamp" | "@timestamp" | "ts" | "time" => Field::Time,
        "severity_number" | "severityNumber" | "severity" => Field::SeverityNumber,
        "level" | "log.level" | "lvl" | "loglevel" | "severity_text" | "severityText" => {
            Field::SeverityWord
        }
        "service_name" | "serviceName" | "service.name" | "service" => Field::ServiceName,
        "body" | "message" | "msg" => Field::Body,
        "host_name" | "hostName" | "host.name" | "host" | "hostname" => Field::HostName,
        "attributes" => Field::Attributes,
        "trace_id" | "traceId" | "trace.id" => Field::TraceId,
        "span_id" | "spanId" | "span.id" => Field::SpanId,
        _ => Field::None,
    }
}

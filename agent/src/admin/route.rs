//! One answer for each path.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::{Router, get};
use serde_json::json;

use super::{AdminState, Condition};

pub fn router(state: AdminState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/v1/status", get(status))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(state)
}

async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    state.source.refresh();
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    (
        [(header::CONTENT_TYPE, content_type)],
        state.registry.render(),
    )
}

/// The control thread answers: the process lives.
async fn healthz() -> impl IntoResponse {
    Json(json!({ "alive": true }))
}

async fn readyz(State(state): State<AdminState>) -> impl IntoResponse {
    let missing: Vec<&str> = state.readiness.missing().map(Condition::label).collect();
    let code = if missing.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let ready = missing.is_empty();
    (code, Json(json!({ "ready": ready, "missing": missing })))
}

async fn status(State(state): State<AdminState>) -> impl IntoResponse {
    state.source.refresh();
    let mut answer = json!(state.source.status());
    answer["ready"] = json!(state.readiness.is_ready());
    Json(answer)
}

async fn not_found() -> impl IntoResponse {
    let paths = ["/metrics", "/healthz", "/readyz", "/api/v1/status"];
    let answer = json!({ "error": "not found", "paths": paths });
    (StatusCode::NOT_FOUND, Json(answer))
}

async fn method_not_allowed() -> impl IntoResponse {
    let answer = json!({ "error": "method not allowed", "allow": ["GET", "HEAD"] });
    (StatusCode::METHOD_NOT_ALLOWED, Json(answer))
}

//! One answer for each path.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::{Router, get, post};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{AdminState, Condition};
use crate::daemon::request::{Ask, Refused, Request};

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

/// The same and what changes the agent: for the control socket.
pub fn control_router(state: AdminState, ask: mpsc::Sender<Ask>) -> Router {
    let changes = Router::new()
        .route("/api/v1/control", post(control))
        .with_state(ask);
    router(state).merge(changes)
}

/// Hands a request to the control thread, and its answer back.
async fn control(
    State(ask): State<mpsc::Sender<Ask>>,
    Json(request): Json<Request>,
) -> impl IntoResponse {
    let (reply, answered) = oneshot::channel();
    let stopping = || Err(Refused("the agent is stopping".to_owned()));
    let answer = match ask.send(Ask { request, reply }).await {
        Ok(()) => answered.await.unwrap_or_else(|_| stopping()),
        Err(_) => stopping(),
    };
    match answer {
        Ok(value) => (StatusCode::OK, Json(value)),
        Err(Refused(why)) => (StatusCode::CONFLICT, Json(json!({ "error": why }))),
    }
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

//! What every request passes before and after its handler: the path's form, media types, OPTIONS, cross-origin rules
//! and the headers that the operator wants on every response. As Connect's HTTP server does these.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use chrono::DateTime;
use lakeferry_api::Clock;

use super::error::ApiError;
use crate::config::rest::{HeaderAction, HeaderRule, RestConfig};

const TEXT: &str = "text/plain";

/// The settings of the layers.
#[derive(Clone)]
pub(super) struct Layers {
    cors: Option<Arc<Cors>>,
    headers: Arc<[HeaderRule]>,
    clock: Arc<dyn Clock>,
}

struct Cors {
    origins: Vec<String>,
    methods: String,
}

impl Layers {
    pub(super) fn new(config: &RestConfig, clock: Arc<dyn Clock>) -> Self {
        Self { cors: Cors::new(config).map(Arc::new), headers: config.response_headers.clone().into(), clock }
    }

    /// `router` inside all layers; cross-origin rules and extra headers are for `public` ones only.
    pub(super) fn around(&self, router: Router, public: bool) -> Router {
        // The path is looked at before any route, and a route's Allow header is there only after it: hence a router
        // around the router.
        let router = Router::new().fallback_service(router).layer(from_fn(options)).layer(from_fn(path));
        if !public {
            return router;
        }
        let router = router.layer(from_fn_with_state(self.clone(), response_headers));
        match &self.cors {
            Some(cors) => router.layer(from_fn_with_state(Arc::clone(cors), cross_origin)),
            None => router,
        }
    }
}

impl Cors {
    fn new(config: &RestConfig) -> Option<Self> {
        let list = |text: &str| -> Vec<String> {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
        };
        let origins = list(&config.access_control_allow_origin);
        let methods = match list(&config.access_control_allow_methods) {
            none if none.is_empty() => "GET,POST,HEAD".to_owned(),
            methods => methods.join(","),
        };
        (!origins.is_empty()).then_some(Self { origins, methods })
    }

    fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed == "*" || allowed == origin)
    }
}

/// Refuses a body that is no JSON and a client that takes none. Runs for known paths and methods only.
pub(super) async fn media_types(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        match kind.to_str().ok().and_then(media_type) {
            Some(kind) if kind == "application/json" => {}
            Some(_) => return ApiError::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE).into_response(),
            None => return ApiError::plain(StatusCode::BAD_REQUEST).into_response(),
        }
    }
    if !accepts_json(headers) {
        return ApiError::plain(StatusCode::NOT_ACCEPTABLE).into_response();
    }
    next.run(request).await
}

/// `type/subtype` in lower case.
fn media_type(value: &str) -> Option<String> {
    let name = value.split(';').next()?.trim().to_ascii_lowercase();
    let (kind, subtype) = name.split_once('/')?;
    (!kind.is_empty() && !subtype.is_empty()).then_some(name)
}

fn accepts_json(headers: &HeaderMap) -> bool {
    let mut wanted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    let names = |value: &str| matches!(value, "" | "*/*" | "*" | "application/*" | "application/json");
    let range = |value: &str| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    wanted.peek().is_none() || wanted.any(|value| value.split(',').any(|one| names(&range(one))))
}

/// A slash at the end means nothing, nor do parameters of a segment (`;key=value`); two slashes in a row are refused,
/// and escapes that are no UTF-8.
async fn path(mut request: Request, next: Next) -> Response {
    let uri = request.uri();
    if uri.path().contains("//") {
        return ApiError::bad_request("Ambiguous URI empty segment").into_response();
    }
    if !is_text(uri.path()) {
        return ApiError::bad_request(format!("The escapes in the path {} are no UTF-8", uri.path())).into_response();
    }
    if let Some(plain) = plain_path(uri.path()) {
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        if let Ok(plain) = format!("{plain}{query}").parse::<Uri>() {
            *request.uri_mut() = plain;
        }
    }
    next.run(request).await
}

/// True where `path` is UTF-8 with its escapes read. A handler that wants a name would be told of it in plain text.
fn is_text(path: &str) -> bool {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (mut bytes, mut rest) = (Vec::with_capacity(path.len()), path.as_bytes());
    while let [first, behind @ ..] = rest {
        let escaped = match behind {
            [high, low, ..] if *first == b'%' => digit(high).zip(digit(low)),
            _ => None,
        };
        bytes.push(escaped.map_or(*first, |(high, low)| (high * 16 + low) as u8));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// `path` without what means nothing; `None` where there is nothing of that.
fn plain_path(path: &str) -> Option<String> {
    let names: Vec<_> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    let joined = names.join("/");
    let plain = joined.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(&joined);
    (plain != path).then(|| plain.to_owned())
}

/// OPTIONS of a known path is answered with its methods; in words, too, where the client takes words first.
async fn options(request: Request, next: Next) -> Response {
    let asked = request.method() == Method::OPTIONS;
    let wanted = first_wanted(request.headers());
    let response = next.run(request).await;
    if !asked || response.status() != StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    match response.headers().get(header::ALLOW).and_then(|allowed| allowed.to_str().ok()) {
        Some(allowed) => {
            let methods: Vec<_> = allowed.split(',').map(str::trim).chain(["OPTIONS"]).collect();
            let words = if wanted == TEXT { methods.join(", ") } else { String::new() };
            let headers = [(header::ALLOW, methods.join(",")), (header::CONTENT_TYPE, wanted)];
            (headers, words).into_response()
        }
        None => response,
    }
}

/// The media type that a client names first; plain text where it leaves the choice.
fn first_wanted(headers: &HeaderMap) -> String {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let first = accept.and_then(|accept| media_type(accept.split(',').next()?));
    first.filter(|kind| !kind.contains('*')).unwrap_or_else(|| TEXT.to_owned())
}

async fn cross_origin(State(cors): State<Arc<Cors>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let origin = origin.filter(|origin| origin.to_str().is_ok_and(|origin| cors.allows(origin)));
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = origin else { return response };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if preflight {
        if let Ok(methods) = HeaderValue::from_str(&cors.methods) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Content-Type"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("60"));
    }
    response
}

async fn response_headers(State(layers): State<Layers>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for rule in layers.headers.iter() {
        let value = match rule.action {
            HeaderAction::Set | HeaderAction::Add => rule.value.clone(),
            HeaderAction::SetDate | HeaderAction::AddDate => date(layers.clock.now_ms(), &rule.value),
        };
        let (Ok(name), Ok(value)) = (HeaderName::try_from(&rule.name), HeaderValue::try_from(value)) else { continue };
        match rule.action {
            HeaderAction::Set | HeaderAction::SetDate => drop(response.headers_mut().insert(name, value)),
            HeaderAction::Add | HeaderAction::AddDate => drop(response.headers_mut().append(name, value)),
        }
    }
    response
}

/// The moment `plus_ms` after `now_ms` as HTTP writes dates.
fn date(now_ms: i64, plus_ms: &str) -> String {
    let moment = DateTime::from_timestamp_millis(now_ms.saturating_add(plus_ms.parse().unwrap_or(0)));
    moment.unwrap_or_default().format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_that_are_no_text_are_told() {
        for text in ["/", "/connectors/a%20b", "/connectors/%C3%BC", "/connectors/%zz%", "/100%"] {
            assert!(is_text(text), "{text}");
        }
        for no_text in ["/connectors/%ff", "/connectors/%C3", "/connectors/%C3%BC%80/config"] {
            assert!(!is_text(no_text), "{no_text}");
        }
    }

    fn accept(value: &'static str) -> bool {
        accepts_json(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))]))
    }

    #[test]
    fn json_is_accepted_where_it_is_among_what_is_wanted() {
        assert!(accepts_json(&HeaderMap::new()));
        for value in ["", "*/*;q=0.1", "text/html, application/json;q=0.5", "application/*", "APPLICATION/JSON"] {
            assert!(accept(value), "{value}");
        }
        for value in ["text/plain", "application/xml", "text/*", "garbage"] {
            assert!(!accept(value), "{value}");
        }
    }

    #[test]
    fn a_path_is_read_without_what_means_nothing() {
        assert_eq!(plain_path("/connectors/"), Some("/connectors".to_owned()));
        assert_eq!(plain_path("/connectors;a=b/x;y/"), Some("/connectors/x".to_owned()));
        assert_eq!([plain_path("/"), plain_path("/connectors/a%3Bb")], [None, None]);
    }

    #[test]
    fn a_media_type_has_two_parts() {
        assert_eq!(media_type("Application/JSON; charset=utf-8").as_deref(), Some("application/json"));
        assert_eq!(media_type("text/json").as_deref(), Some("text/json"));
        assert_eq!(media_type("garbage"), None);
        assert_eq!(media_type("/"), None);
    }

    #[test]
    fn dates_are_written_as_http_writes_them() {
        assert_eq!(date(784_111_777_000, "0"), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(784_111_777_000, "3000"), "Sun, 06 Nov 1994 08:49:40 GMT");
    }
}

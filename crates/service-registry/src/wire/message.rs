//! The envelope: requests, answers and notifications.

use super::code;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::fmt;

/// The id of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// A whole number.
    Number(i64),
    /// Text.
    Text(String),
}

/// An error as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RpcError {
    /// One of [`code`], or a host's own.
    pub code: i64,
    /// For people.
    pub message: String,
    /// For programs; what it holds depends on the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

impl RpcError {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The same with data.
    #[must_use]
    pub fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// Parameters that can't be understood.
    pub fn invalid_params(error: &serde_json::Error) -> Self {
        Self::new(code::INVALID_PARAMS, format!("invalid parameters: {error}"))
    }

    /// Something that the client can't do anything about.
    pub fn internal(error: impl fmt::Display) -> Self {
        Self::new(code::INTERNAL_ERROR, error.to_string())
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RpcError {}

/// A request, or a notification if it has no id.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Matches the answer to it.
    pub id: Option<Id>,
    /// What to do.
    pub method: String,
    /// With what; `{}` if there was nothing.
    pub params: Value,
}

/// Reads what a client sent. An error comes with the id of the request where it could be read.
pub fn parse_request(text: &str) -> Result<Request, (Option<Id>, RpcError)> {
    let value: Value = serde_json::from_str(text)
        .map_err(|e| (None, RpcError::new(code::PARSE_ERROR, format!("not JSON: {e}"))))?;
    let invalid = |id: Option<Id>, what: &str| (id, RpcError::new(code::INVALID_REQUEST, what));
    let mut object = match value {
        Value::Object(object) => object,
        Value::Array(_) => return Err(invalid(None, "batches are not taken: send the requests one by one")),
        _ => return Err(invalid(None, "a request is an object")),
    };
    let id = match object.remove("id") {
        None | Some(Value::Null) => None,
        Some(id) => match serde_json::from_value(id) {
            Ok(id) => Some(id),
            Err(_) => return Err(invalid(None, "`id` is text or a whole number")),
        },
    };
    if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(invalid(id, "`jsonrpc` must be \"2.0\""));
    }
    let Some(Value::String(method)) = object.remove("method") else {
        return Err(invalid(id, "`method` must be text"));
    };
    let params = match object.remove("params") {
        None | Some(Value::Null) => json!({}),
        Some(params @ Value::Object(_)) => params,
        Some(_) => {
            let error =
                RpcError::new(code::INVALID_PARAMS, "`params` must be an object: parameters have names");
            return Err((id, error));
        }
    };
    Ok(Request { id, method, params })
}

/// The answer to a request: its result as JSON that isn't looked into yet, or an error.
pub type Answer = Result<Box<RawValue>, RpcError>;

/// What a client reads.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// The answer to the request with this id; `None` if the server could not read the id.
    Answer(Option<Id>, Answer),
    /// Something that it wasn't asked.
    Notification {
        /// What it is about.
        method: String,
        /// What it says.
        params: Box<RawValue>,
    },
}

#[derive(Deserialize)]
struct RawIncoming {
    id: Option<Id>,
    method: Option<String>,
    params: Option<Box<RawValue>>,
    result: Option<Box<RawValue>>,
    error: Option<RpcError>,
}

/// Reads what a server sent.
///
/// # Errors
///
/// It is no JSON-RPC answer or notification; the text says why.
pub fn parse_incoming(text: &str) -> Result<Incoming, String> {
    let raw: RawIncoming = serde_json::from_str(text).map_err(|e| e.to_string())?;
    match raw {
        RawIncoming { method: Some(method), params, .. } => {
            Ok(Incoming::Notification { method, params: params.unwrap_or_else(null) })
        }
        RawIncoming { id, error: Some(error), .. } => Ok(Incoming::Answer(id, Err(error))),
        // a result of `null` is read as none
        RawIncoming { id: id @ Some(_), result, .. } => {
            Ok(Incoming::Answer(id, Ok(result.unwrap_or_else(null))))
        }
        _ => Err("neither an answer nor a notification".to_owned()),
    }
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

#[derive(Serialize)]
struct Call<'a, P> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Id>,
    method: &'a str,
    params: &'a P,
}

/// The text of a request.
///
/// # Errors
///
/// The parameters can't be written as JSON.
pub fn request<P: Serialize>(id: &Id, method: &str, params: &P) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Call { jsonrpc: "2.0", id: Some(id), method, params })
}

/// The text of a notification.
///
/// # Errors
///
/// The parameters can't be written as JSON.
pub fn notification<P: Serialize>(method: &str, params: &P) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Call { jsonrpc: "2.0", id: None, method, params })
}

#[derive(Serialize)]
struct Success<'a, R> {
    jsonrpc: &'static str,
    id: &'a Id,
    result: &'a R,
}

#[derive(Serialize)]
struct Failure<'a> {
    jsonrpc: &'static str,
    id: Option<&'a Id>,
    error: &'a RpcError,
}

/// The text of a good answer.
pub(crate) fn success<R: Serialize>(id: &Id, result: &R) -> String {
    serde_json::to_string(&Success { jsonrpc: "2.0", id, result })
        .unwrap_or_else(|error| failure(Some(id), &RpcError::internal(error)))
}

/// The text of a bad answer.
pub(crate) fn failure(id: Option<&Id>, error: &RpcError) -> String {
    // can't fail: every part is text, number or Value
    serde_json::to_string(&Failure { jsonrpc: "2.0", id, error }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_what_is_wrong_with_them() {
        let deep = format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"m","params":{}1{}}}"#,
            "[".repeat(9999),
            "]".repeat(9999)
        );
        let seven = Some(Id::Number(7));
        for (text, id, code) in [
            ("", None, code::PARSE_ERROR),
            ("{", None, code::PARSE_ERROR),
            ("\u{0}", None, code::PARSE_ERROR),
            (deep.as_str(), None, code::PARSE_ERROR),
            ("[]", None, code::INVALID_REQUEST),
            ("7", None, code::INVALID_REQUEST),
            ("{}", None, code::INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, None, code::INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"m"}"#, None, code::INVALID_REQUEST),
            (r#"{"jsonrpc":"1.0","id":7,"method":"m"}"#, seven.clone(), code::INVALID_REQUEST),
            (r#"{"id":7,"method":"m"}"#, seven.clone(), code::INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":7}"#, seven.clone(), code::INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":7,"method":8}"#, seven.clone(), code::INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":7,"method":"m","params":[1]}"#, seven, code::INVALID_PARAMS),
            (
                r#"{"jsonrpc":"2.0","id":"x","method":"m","params":1}"#,
                Some(Id::Text("x".into())),
                code::INVALID_PARAMS,
            ),
        ] {
            let (found, error) = parse_request(text).unwrap_err();
            assert_eq!((found, error.code), (id, code), "{text:.60}");
        }
        let good = parse_request(r#"{"jsonrpc":"2.0","id":"a","method":"m"}"#).unwrap();
        assert_eq!(good, Request { id: Some(Id::Text("a".into())), method: "m".into(), params: json!({}) });
    }

    #[test]
    fn what_is_written_can_be_read_on_the_other_side() {
        let id = Id::Number(3);
        let sent = request(&id, "registry.get", &json!({"instance": "web-1"})).unwrap();
        assert_eq!(parse_request(&sent).unwrap().params["instance"], "web-1");
        let Ok(Incoming::Answer(Some(found), Ok(result))) = parse_incoming(&success(&id, &json!(null)))
        else {
            panic!("no answer");
        };
        assert_eq!((found, result.get()), (id, "null"));
        let error = RpcError::new(code::NOT_FOUND, "no").with_data(json!({"names": []}));
        let Ok(Incoming::Answer(None, Err(found))) = parse_incoming(&failure(None, &error)) else {
            panic!("no error");
        };
        assert_eq!(found, error);
        let note = notification("events.event", &json!({"n": 1})).unwrap();
        let Ok(Incoming::Notification { method, params }) = parse_incoming(&note) else {
            panic!("no notification");
        };
        assert_eq!((method.as_str(), params.get()), ("events.event", r#"{"n":1}"#));
        assert!(parse_incoming("{}").is_err());
    }
}

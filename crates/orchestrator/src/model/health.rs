//! Health checks as configured. What their results mean is decided in [`crate::health`].

use super::Template;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When and how an instance is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The question.
    pub probe: Probe,
    /// Time between the end of a probe and the start of the next, once it is healthy.
    pub interval: Duration,
    /// Time after which an unanswered probe has failed.
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy, at least 1.
    pub retries: u32,
    /// Time after the start in which failures don't count.
    pub start_period: Duration,
    /// The first delay between probes while starting; it doubles up to `interval`.
    pub start_interval: Duration,
    /// Successes in a row that make it healthy, at least 1.
    pub success_threshold: u32,
}

/// One question, or several that must all be answered well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// A command, run where the service runs.
    Command {
        /// Program and arguments; never run by a shell unless it names one.
        argv: Vec<Template>,
        /// The exit code of a healthy service.
        expected_exit: i32,
        /// Text that its standard output must contain.
        expected_output: Option<String>,
    },
    /// An HTTP request.
    Http(HttpProbe),
    /// A TCP connection.
    Tcp {
        /// Host; `None` is the instance's own address.
        host: Option<Template>,
        /// A number once its holes are filled.
        port: Template,
    },
    /// All of these.
    All(Vec<Probe>),
}

/// An HTTP/1.1 request and what must come back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HttpProbe {
    /// `http://HOST[:PORT]/PATH`.
    pub url: Template,
    /// Method, upper case.
    pub method: String,
    /// Headers, in order.
    #[serde(default)]
    pub headers: Vec<(String, Template)>,
    /// Statuses of a healthy service; empty means any of 200 to 399.
    #[serde(default)]
    pub expected_status: Vec<u16>,
    /// Text that the body must contain.
    pub expected_body: Option<String>,
}

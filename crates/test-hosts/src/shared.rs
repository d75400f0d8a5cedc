//! The hosts that all tests of a checkout share.

use crate::host::{self, Host};
use crate::network::{self, Subnet};
use crate::scope::{OWNER, checkout_label, remove_labelled};
use crate::{Docker, Error, Suite, docker, state};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// How a shared host stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What it runs.
    pub suite: Suite,
    /// Docker's word for its state; `None` when there is no such container.
    pub state: Option<String>,
    /// Its address, when it runs.
    pub address: Option<Ipv4Addr>,
    /// Whether it was made from the image that is there now.
    pub current: bool,
}

/// How the shared host of this suite stands.
///
/// # Errors
/// [`Error::Absent`] where there is no Docker.
pub fn standing(suite: Suite) -> Result<Standing, Error> {
    Docker::here()?;
    let none = Standing { suite, state: None, address: None, current: false };
    let format = format!(
        "{{{{.State.Status}}}} {{{{.Image}}}} {{{{with index .NetworkSettings.Networks \"{}\"}}}}{{{{.IPAddress}}}}{{{{end}}}}",
        lan()
    );
    let asked = docker::output(&["container", "inspect", "--format", &format, &container(suite)]);
    let Ok(text) = asked else { return Ok(none) };
    let mut words = text.split_whitespace();
    let state = words.next().map(str::to_owned);
    let image = words.next();
    let address = words.next().and_then(|word| word.parse().ok());
    let current = docker::has_image(suite.image()).is_ok_and(|id| image == Some(&id));
    Ok(Standing { state, address, current, ..none })
}

/// Removes the shared hosts and their network.
///
/// # Errors
/// When docker refuses.
pub fn end_shared() -> Result<(), Error> {
    remove_labelled(&label())?;
    state::remove(&folder())
}

/// The shared host of this suite; boots it if it doesn't run, or was made from an older image.
pub(crate) fn host(suite: Suite) -> Result<Host, Error> {
    state::prepare()?;
    // Whoever comes first boots it, the others wait here.
    let _alone = state::lock("shared")?;
    let standing = standing(suite)?;
    let folder = folder();
    let host = |address| Host {
        name: suite.name().to_owned(),
        container: container(suite),
        address,
        suite,
        folder: folder.clone(),
    };
    let known = folder.join(suite.name()).join("known").exists();
    if let (Some("running"), Some(address), true, true) =
        (standing.state.as_deref(), standing.address, standing.current, known)
    {
        return Ok(host(address));
    }
    if standing.state.is_some() {
        docker::output(&["rm", "--force", "--volumes", &container(suite)])?;
    }
    state::make_folder(&folder)?;
    let host = host(network()?.address(number(suite)));
    let host = host::boot(host, &lan(), &labels())?;
    network::note(&host)?;
    network::tell(&host)?;
    Ok(host)
}

/// The network of the shared hosts, made if it isn't there.
fn network() -> Result<Subnet, Error> {
    let format = "{{range .IPAM.Config}}{{.Subnet}}{{end}}";
    match docker::output(&["network", "inspect", "--format", format, &lan()]) {
        Ok(text) => {
            let address: Option<Ipv4Addr> = text.strip_suffix("/24").and_then(|start| start.parse().ok());
            let Some([a, b, c, _]) = address.map(|address| address.octets()) else {
                return Err(Error::Answer { command: "docker network inspect".to_owned(), printed: text });
            };
            Ok(Subnet([a, b, c]))
        }
        Err(_) => network::create(&lan(), &labels(), |_| true),
    }
}

fn folder() -> PathBuf {
    state::folder().join("shared")
}

fn lan() -> String {
    format!("ht-{}", state::digits())
}

fn container(suite: Suite) -> String {
    format!("ht-{}-{}", state::digits(), suite.name())
}

/// Its last number in the shared network.
fn number(suite: Suite) -> u8 {
    match suite {
        Suite::Bookworm => 12,
        Suite::Trixie => 13,
        Suite::Podman => 14,
    }
}

fn labels() -> Vec<String> {
    [checkout_label(), label()].into_iter().flat_map(|label| ["--label".to_owned(), label]).collect()
}

/// Of the shared hosts and network of this checkout.
fn label() -> String {
    format!("{OWNER}=shared-{}", state::digits())
}

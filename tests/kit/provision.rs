//! Brings things from the package registries into `target/kit`, once per machine, by the registries' own clients.
//!
//! Every folder carries a `.recipe` file, written last, with the text of what it was made from: a folder without it is
//! half finished, one with another text is of another version; both are made anew. A lock per client makes it safe for
//! any number of processes, and keeps two Go builds from running at once.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::home::{self, say};
use super::process::Launch;
use super::{Error, Missing, Result};

/// A registry may be slow and a build machine busy; a hung download must still end.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(900);
const BUILD_LIMIT: Duration = Duration::from_secs(1_800);
const RECIPE: &str = ".recipe";

/// The folder `target/kit/<name>`, made by `make` from `recipe` unless it is there already. `client` names the lock.
pub fn folder(name: &str, recipe: &str, client: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = home::root()?.join(name);
    let whole = || fs::read_to_string(folder.join(RECIPE)).is_ok_and(|text| text == recipe);
    if whole() {
        return Ok(folder);
    }
    let _one_at_a_time = home::lock(client)?;
    if whole() {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    make(&folder).map_err(|error| error.during(format!("provisioning {name}")))?;
    fs::write(folder.join(RECIPE), recipe)?;
    Ok(folder)
}

/// All jars that `pom` needs at run time, in `target/kit/<name>/libs`.
pub fn jars(name: &str, pom: &str) -> Result<PathBuf> {
    let fetch = |folder: &Path| {
        let mvn = find("mvn", name, "Apache Maven 3.6 or newer")?;
        say(&format!("kit: fetching the jars of {name} (once)"));
        let file = folder.join("pom.xml");
        fs::write(&file, pom)?;
        let plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";
        let maven = Launch::new(mvn, folder.join("maven.log")).args(["-q", "-B", "-f"]).args([&file]);
        maven.args([plugin, "-DoutputDirectory=libs", "-DincludeScope=runtime"]).run(DOWNLOAD_LIMIT)?;
        Ok(())
    };
    folder(name, pom, "maven", fetch)
}

/// The program `<module>@<version>` builds, stripped, at `target/kit/<name>/<program>`.
pub fn go_program(name: &str, module: &str, version: &str) -> Result<PathBuf> {
    let recipe = format!("{module}@{version}");
    let build = |folder: &Path| {
        let go = find("go", name, "Go 1.24 or newer")?;
        say(&format!("kit: building {name} (once, some minutes)"));
        let go = Launch::new(go, folder.join("go.log")).env("GOBIN", folder);
        go.args(["install", "-ldflags=-s -w", recipe.as_str()]).run(BUILD_LIMIT)?;
        Ok(())
    };
    let folder = folder(name, &recipe, "go", build)?;
    Ok(folder.join(module.rsplit('/').next().unwrap_or(module)))
}

/// The full path of a program on the `PATH`.
pub fn find(tool: &'static str, purpose: &str, remedy: &'static str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(tool)).find(|file| file.is_file());
    found.ok_or_else(|| Error::Missing(Missing { tool, purpose: purpose.to_owned(), remedy }))
}

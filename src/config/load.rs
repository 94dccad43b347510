//! From a path to a checked configuration, with everything that is wrong with
//! it told at once.

use std::fmt;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map};
use figment::{Figment, Metadata, Profile, Provider};

use super::check::{Findings, check};
use super::environment::{self, Overrides};
use super::file::FileConfig;
use super::shape::{leads_to, shape};
use super::{schema, source};
use crate::problem::Problem;

/// A configuration that can be built from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the file and the environment say.
    pub file: FileConfig,
    /// The file.
    pub path: PathBuf,
    /// The directory of the file: relative paths in it are relative to this.
    pub base: PathBuf,
    /// What is odd about it, yet allowed.
    pub warnings: Vec<Problem>,
}

/// A configuration that cannot be used. Prints one problem a line, each as
/// `FILE: key.path: message`, and never a value of the file.
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// Everything that is wrong with it; not empty.
    pub problems: Vec<Problem>,
    /// What is odd besides.
    pub warnings: Vec<Problem>,
    /// What could be read of it, for further problems: not to be run.
    pub readable: Option<Box<Loaded>>,
    /// The key paths in `readable` that hold something neutral in place of what
    /// could not be read.
    broken: Vec<String>,
}

impl LoadError {
    /// Adds what building `readable` brought to light, without what is told
    /// already and what only follows from it.
    pub fn add(&mut self, further: Vec<Problem>) {
        for problem in further {
            let follows = |path: &String| leads_to(path, &problem.path);
            let touched = |path: &String| follows(path) || leads_to(&problem.path, path);
            // An upstream that is written as a string is its URL.
            let path = problem.path.strip_suffix(".url").unwrap_or(&problem.path);
            let told = |told: &Problem| told.path == problem.path || told.path == path;
            let told = self.problems.iter().any(told);
            if !told && !self.broken.iter().any(touched) {
                self.problems.push(problem);
            }
        }
    }
}

impl fmt::Debug for LoadError {
    /// Without the file: it may hold the user information of a URL.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadError { path, problems, warnings, .. } = self;
        let mut shown = formatter.debug_struct("LoadError");
        shown.field("path", path).field("problems", problems).field("warnings", warnings);
        shown.finish_non_exhaustive()
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.problems.iter().enumerate() {
            if position > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{}: {problem}", self.path.display())?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// Loads the file at `path`, with overrides from the environment.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let mut variables = Vec::new();
    let mut garbled = Vec::new();
    for (name, text) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match text.into_string() {
            Ok(text) => variables.push((name, text)),
            Err(_) if environment::is_override(&name) => {
                garbled.push(Problem::new(name, "is not UTF-8 text"));
            }
            Err(_) => {}
        }
    }
    match (load_from(path, variables), garbled.is_empty()) {
        (loaded, true) => loaded,
        (Ok(loaded), false) => {
            let (path, warnings) = (loaded.path.clone(), loaded.warnings.clone());
            let readable = Some(Box::new(loaded));
            Err(LoadError { path, problems: garbled, warnings, readable, broken: Vec::new() })
        }
        (Err(mut error), false) => {
            error.problems.append(&mut garbled);
            Err(error)
        }
    }
}

/// Loads the file at `path`, with overrides from `environment` alone.
pub fn load_from(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, LoadError> {
    let overrides = environment::overrides(&schema(), environment);
    let refused = |problems, warnings| LoadError {
        path: path.to_owned(),
        problems,
        warnings,
        readable: None,
        broken: Vec::new(),
    };
    let written = match source::read(path) {
        Ok(written) => written,
        Err(problem) => {
            let mut problems = vec![problem];
            problems.extend(overrides.problems);
            return Err(refused(problems, Vec::new()));
        }
    };
    let tree = match merged(path, written, overrides.values.clone()) {
        Ok(tree) => tree,
        Err(problem) => return Err(refused(vec![problem], Vec::new())),
    };
    let base = base(path);
    let shape = shape(&tree);
    let mut findings = match &shape.file {
        Some(file) => check(file, &base),
        None => Findings::default(),
    };
    // Not what only follows from a fault that is told already.
    findings.problems.retain(|problem| !shape.broke(&problem.path));
    findings.warnings.retain(|warning| !shape.broke(&warning.path));
    findings.lacks.retain(|problem| !shape.touched(&problem.path));
    findings.problems.append(&mut findings.lacks);
    if shape.faults.is_empty() {
        findings.warnings.append(&mut findings.unused);
    }
    let faults = shape.faults.iter();
    let mut problems: Vec<Problem> =
        faults.map(|(path, message)| Problem::new(path.to_string(), message.clone())).collect();
    problems.append(&mut findings.problems);
    for problem in problems.iter_mut().chain(&mut findings.warnings) {
        name_variable(problem, &overrides);
    }
    problems.extend(overrides.problems);
    match (shape.file, problems.is_empty()) {
        (Some(file), true) => {
            Ok(Loaded { file, path: path.to_owned(), base, warnings: findings.warnings })
        }
        (None, true) => {
            let problem = Problem::new("", "cannot be read as a configuration");
            Err(refused(vec![problem], findings.warnings))
        }
        (None, false) => Err(refused(problems, findings.warnings)),
        (Some(file), false) => {
            let loaded = Loaded { file, path: path.to_owned(), base, warnings: Vec::new() };
            let broken = shape.faults.iter().map(|(path, _)| path.to_string()).collect();
            Err(LoadError {
                readable: Some(Box::new(loaded)),
                broken,
                ..refused(problems, findings.warnings)
            })
        }
    }
}

/// The directory of the file, absolute where the system can tell.
fn base(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Says which variable set the key that a problem is about.
fn name_variable(problem: &mut Problem, overrides: &Overrides) {
    let set = overrides.names.iter().find(|(path, _)| leads_to(path, &problem.path));
    if let Some((_, variable)) = set {
        problem.message = format!("{} (set by {variable})", problem.message);
    }
}

/// One layer of values; figment merges them.
struct Layer(String, Dict);

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.1.clone()))
    }
}

fn merged(path: &Path, written: Dict, environment: Dict) -> Result<Dict, Problem> {
    Figment::from(Layer(path.display().to_string(), written))
        .merge(Layer("environment".to_owned(), environment))
        .data()
        .map(|mut profiles| profiles.remove(&Profile::Default).unwrap_or_default())
        // figment's own words may repeat a value.
        .map_err(|_| Problem::new("", "cannot be merged with the environment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_building_finds_is_told_once_and_not_if_it_only_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sockgate.yaml");
        let yaml = "
server: { listen: 'a:1', drain: soon }
verifiers: { app: { jwt: { secret: x, algorithms: HS256x } } }
policies: { members: { credentials: [{ query: token, verifier: app }] } }
routes: [{ path: /ws, policy: mebers, upstream: 'ws://127.0.0.1:1' }]
";
        std::fs::write(&path, yaml).unwrap();
        let mut error = load_from(&path, []).unwrap_err();
        assert_eq!(error.readable.as_ref().unwrap().file.routes.len(), 1);
        let before = error.problems.len();
        error.add(
            ["server.drain", "server", "routes[0].policy", "policies.members.require"]
                .map(|path| Problem::new(path, "found later"))
                .to_vec(),
        );
        let added: Vec<_> =
            error.problems.split_off(before).into_iter().map(|problem| problem.path).collect();
        assert_eq!(added, ["policies.members.require"]);
    }
}

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
#[derive(Debug)]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// Everything that is wrong with it; not empty.
    pub problems: Vec<Problem>,
    /// What is odd besides.
    pub warnings: Vec<Problem>,
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
            Err(LoadError { path: loaded.path, problems: garbled, warnings: loaded.warnings })
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
    let refused = |problems, warnings| LoadError { path: path.to_owned(), problems, warnings };
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
        (Some(_) | None, false) => Err(refused(problems, findings.warnings)),
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

//! A page of `docs/recipes`, read as a reader of it would use it: its blocks,
//! the files that they are, and its configuration, run as written.
//!
//! What a page has to look like for that:
//! - a whole configuration is a `yaml` block with a line that begins `routes:`;
//! - a block whose first line is a comment that names a file (`# keys.yaml`,
//!   `// app.js`, `-- schema.sql`) is that file, beside the configuration;
//! - an `sh` block whose first line begins with `# prepare` is run there first.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::gate::{BINARY, Gate};

/// A page.
pub(crate) struct Recipe {
    page: String,
    blocks: Vec<Block>,
}

struct Block {
    language: String,
    text: String,
}

/// Where the pages are.
pub(crate) fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes")
}

impl Recipe {
    /// Reads `docs/recipes/PAGE`.
    #[track_caller]
    pub(crate) fn read(page: &str) -> Recipe {
        let text = std::fs::read_to_string(recipes().join(page))
            .unwrap_or_else(|error| panic!("docs/recipes/{page}: {error}"));
        let mut blocks = Vec::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some(language) = line.strip_prefix("```") else { continue };
            let body = lines.by_ref().take_while(|line| *line != "```");
            let text = body.map(|line| format!("{line}\n")).collect();
            blocks.push(Block { language: language.to_owned(), text });
        }
        assert!(!blocks.is_empty(), "docs/recipes/{page} has no block");
        Recipe { page: page.to_owned(), blocks }
    }

    /// The whole configurations of the page, in order; at least one.
    #[track_caller]
    pub(crate) fn configs(&self) -> Vec<&str> {
        let whole = |block: &&Block| {
            block.language == "yaml" && block.text.lines().any(|line| line.starts_with("routes:"))
        };
        let configs: Vec<&str> =
            self.blocks.iter().filter(whole).map(|block| block.text.as_str()).collect();
        assert!(!configs.is_empty(), "{} has no whole configuration", self.page);
        configs
    }

    /// The block that is the file `name`.
    #[track_caller]
    pub(crate) fn file(&self, name: &str) -> &str {
        let named = self.blocks.iter().find(|block| file_name(block) == Some(name));
        &named.unwrap_or_else(|| panic!("{} shows no file {name}", self.page)).text
    }

    /// A directory as the page has its reader prepare it: with every file that it
    /// shows, after every block that begins with `# prepare`.
    #[track_caller]
    pub(crate) fn directory(&self) -> TempDir {
        let directory = TempDir::new().expect("a directory");
        for block in &self.blocks {
            if let Some(name) = file_name(block) {
                std::fs::write(directory.path().join(name), &block.text).expect("written");
            }
        }
        for block in self.blocks.iter().filter(|block| is_preparation(block)) {
            self.prepare(&block.text, directory.path());
        }
        directory
    }

    #[track_caller]
    fn prepare(&self, script: &str, directory: &Path) {
        let ours = Path::new(BINARY).parent().expect("a directory");
        let path = std::env::var("PATH").expect("a PATH");
        let output = Command::new("sh")
            .args(["-euc", script])
            .current_dir(directory)
            .env("PATH", format!("{}:{path}", ours.display()))
            .output()
            .expect("sh runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {script}\n{said}", self.page);
    }

    /// Starts the gate in `directory` with the first configuration as written, but
    /// for the addresses: each pair of `places` is a piece that the page has and
    /// what stands there in this test; the gate itself listens on a free port.
    #[track_caller]
    pub(crate) fn start_in(
        &self,
        directory: TempDir,
        places: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Gate {
        let config = self.placed(self.configs()[0], places);
        Gate::start_in(directory, &config, environment)
    }

    /// `config` of this page with `places` put in, and the gate on a free port.
    #[track_caller]
    pub(crate) fn placed(&self, config: &str, places: &[(&str, &str)]) -> String {
        let mut placed = config.to_owned();
        for (written, here) in [("0.0.0.0:8080", "127.0.0.1:0")].iter().chain(places) {
            assert!(placed.contains(written), "{} has no {written:?}", self.page);
            placed = placed.replace(written, here);
        }
        placed
    }
}

/// `config/NAME` with each pair of `places` put in, on free ports.
#[track_caller]
pub(crate) fn example(name: &str, places: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    let mut text = std::fs::read_to_string(path).expect("the example");
    for port in ["0.0.0.0:8080", "0.0.0.0:8443"] {
        text = text.replace(port, "127.0.0.1:0");
    }
    for (written, here) in places {
        assert!(text.contains(written), "{name} has no {written:?}");
        text = text.replace(written, here);
    }
    text
}

/// The file that a block says it is, in the comment of its first line.
fn file_name(block: &Block) -> Option<&str> {
    let first = block.text.lines().next()?;
    let name = ["# ", "// ", "-- "].iter().find_map(|mark| first.strip_prefix(mark))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (name.contains('.') && name.bytes().all(plain)).then_some(name)
}

fn is_preparation(block: &Block) -> bool {
    block.language == "sh" && block.text.starts_with("# prepare")
}

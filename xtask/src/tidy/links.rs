//! Links of the documentation to files of this repository lead somewhere. Addresses on the web are
//! not tried: a check that needs the network fails for other people's reasons.

use super::Finding;
use super::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending_in(".md") {
        let mut fenced = false;
        for (index, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            }
            if fenced {
                continue;
            }
            for target in targets(&without_code(line)) {
                if let Some(file) = local_file(path, &target)
                    && !tree.has(&file)
                {
                    findings.push(Finding {
                        path: path.to_owned(),
                        line: index + 1,
                        rule: "link",
                        advice: format!(
                            "`{target}` leads to no file of the repository; correct or remove the link"
                        ),
                    });
                }
            }
        }
    }
    findings
}

/// The line with `code spans` removed.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// Targets of `[text](target)`, and of a definition `[name]: target`.
fn targets(line: &str) -> Vec<String> {
    let inline = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let mut targets: Vec<&str> = inline.map(|(target, _)| target).collect();
    if line.starts_with('[')
        && let Some((_, target)) = line.split_once("]: ")
    {
        targets.push(target);
    }
    // A target may have a title: (file "title").
    targets.iter().filter_map(|target| target.split_whitespace().next()).map(str::to_owned).collect()
}

/// Path below the root that the target of a link in `from` means; None for the web and for anchors.
fn local_file(from: &str, target: &str) -> Option<String> {
    let file = target.split('#').next().unwrap_or_default();
    if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
        return None;
    }
    let mut parts: Vec<&str> = match file.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => from.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev().collect(),
    };
    for part in file.split('/') {
        match part {
            "" | "." => {}
            // Above the root there is no file: keep the part, so that it is not found.
            ".." if parts.pop().is_none() => parts.push(".."),
            ".." => {}
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

//! What is in the file: `{"auths":{REGISTRY:{"auth":base64(USER:PASSWORD)}}}`.
//!
//! Pure. Keys of others are kept as they are. No error repeats what is in it.

use crate::spec::Secret;
use crate::spec::reference::registry_key;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// Why it cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is no JSON.
    #[error("not JSON from line {line}, column {column} on")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// It has another form.
    #[error("not of the form {{\"auths\":{{REGISTRY:{{\"auth\":…}}}}}}")]
    Form,
    /// An entry is not base64 of user and password.
    #[error("the entry's \"auth\" is not base64 of USER:PASSWORD")]
    Entry,
}

/// The whole of it.
pub struct Document(Map<String, Value>);

impl Document {
    /// Reads it; nothing at all is an empty one.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(Map::new()));
        }
        let value = serde_json::from_slice(bytes)
            .map_err(|error| DocumentError::NotJson { line: error.line(), column: error.column() })?;
        match value {
            Value::Object(map) if map.get("auths").is_none_or(|auths| auths.is_object() || auths.is_null()) => {
                Ok(Self(map))
            }
            _ => Err(DocumentError::Form),
        }
    }

    /// As written to the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        format!("{:#}\n", Value::Object(self.0.clone())).into_bytes()
    }

    /// User name and password for `registry`.
    ///
    /// # Errors
    /// [`DocumentError::Entry`].
    pub fn find(&self, registry: &str) -> Result<Option<(String, Secret)>, DocumentError> {
        let Some((_, entry)) = self.entries().find(|(name, _)| registry_key(name) == registry_key(registry)) else {
            return Ok(None);
        };
        let auth = entry.get("auth").and_then(Value::as_str).ok_or(DocumentError::Form)?;
        let bytes = STANDARD.decode(auth.trim()).map_err(|_| DocumentError::Entry)?;
        let text = String::from_utf8(bytes).map_err(|_| DocumentError::Entry)?;
        match text.split_once(':') {
            Some((user, password)) if !user.is_empty() => Ok(Some((user.to_owned(), Secret::new(password)))),
            Some(_) | None => Err(DocumentError::Entry),
        }
    }

    /// Whether there is nothing for `registry`.
    pub fn is_without(&self, registry: &str) -> bool {
        !self.entries().any(|(name, _)| registry_key(name) == registry_key(registry))
    }

    /// Puts an entry in place of any for `registry`.
    pub fn set(&mut self, registry: &str, username: &str, password: &Secret) {
        self.remove(registry);
        let auth = STANDARD.encode(format!("{username}:{}", password.reveal()));
        let auths = self.0.entry("auths").or_insert_with(|| json!({}));
        if auths.is_null() {
            *auths = json!({});
        }
        if let Value::Object(auths) = auths {
            auths.insert(registry_key(registry), json!({ "auth": auth }));
        }
    }

    /// Takes the entry for `registry` out, however it is spelled.
    pub fn remove(&mut self, registry: &str) {
        if let Some(Value::Object(auths)) = self.0.get_mut("auths") {
            auths.retain(|name, _| registry_key(name) != registry_key(registry));
        }
    }

    fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.get("auths").and_then(Value::as_object).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_under_every_spelling_and_taken_out() {
        let mut document =
            Document::parse(br#"{"other":1,"auths":{"https://index.docker.io/v1/":{"auth":"YTpiOmM="}}}"#).unwrap();
        let found = |document: &Document, registry: &str| {
            document.find(registry).unwrap().map(|(user, password)| (user, password.reveal().to_owned()))
        };
        assert_eq!(found(&document, "docker.io"), Some(("a".into(), "b:c".into())));
        document.set("H.io:5000", "me", &Secret::new("pä:ss"));
        let mut document = Document::parse(&document.to_bytes()).unwrap();
        assert_eq!(found(&document, "h.io:5000"), Some(("me".into(), "pä:ss".into())));
        assert_eq!(found(&document, "h.io"), None);
        document.remove("docker.io");
        assert!(document.is_without("docker.io") && !document.is_without("https://h.io:5000"));
        assert!(String::from_utf8(document.to_bytes()).unwrap().contains("\"other\": 1"));
    }

    #[test]
    fn an_empty_file_is_none_and_a_bad_one_is_told_without_its_content() {
        for empty in ["", " \n", "{}", r#"{"auths":null}"#, r#"{"auths":{}}"#] {
            let mut document = Document::parse(empty.as_bytes()).unwrap();
            assert!(document.find("h.io").unwrap().is_none(), "{empty}");
            document.set("h.io", "u", &Secret::new("p"));
            assert!(document.find("h.io").unwrap().is_some(), "{empty}");
        }
        for bad in ["[", "[]", "3", r#"{"auths":[]}"#, "{\"auths\": canary}"] {
            let error = Document::parse(bad.as_bytes()).err().unwrap();
            assert!(!error.to_string().contains("canary"), "{error}");
        }
        for entry in [r#"{"auth":"canary"}"#, r#"{"auth":"bm9jb2xvbg=="}"#, r#"{"auth":"OnA="}"#, r#"{"auth":1}"#, "3"]
        {
            let document = Document::parse(format!(r#"{{"auths":{{"h.io":{entry}}}}}"#).as_bytes()).unwrap();
            let error = document.find("h.io").unwrap_err();
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}

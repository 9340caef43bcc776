use super::*;

/// The deployment guide's complete example, with keys of other sections around it.
const GUIDE: &str = r#"
ControlMachine: crane01
CraneBaseDir: /srv/crane/
Nodes:
  - name: "crane[01-04]"
    cpu: 4
    memory: 8G
Supervisor:
  Path: /usr/libexec/crane-supervisor
  DebugLevel: info
  LogDir: supervisor
  MaxLogFileSize: 20M
  MaxLogFileNum: 010
Container:
  Enabled: yes
  TempDir: supervisor/containers/
  RuntimeEndpoint: /run/containerd/containerd.sock
  ImageEndpoint: ~
  CriRequestTimeout: 5
  Dns:
    ClusterDomain: "cluster.local"
    Servers: ["10.0.0.2", '10.0.0.3']
    Searches: []
  SubId:
    Managed: on
    UidMappings:
      - { Id: 0, IdCount: 2000, SubIdStart: 100000, SubIdSize: 65536 }
  BindFs:
    Enabled: off
    MountBaseDir: mounts
"#;

#[test]
fn the_guides_example_reads_without_a_note() {
    let (config, notes) = parse(GUIDE).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    assert_eq!(config.base_dir, Path::new("/srv/crane/"));
    assert_eq!(config.supervisor.max_log_file_size, "20M");
    assert_eq!(config.supervisor.max_log_file_num, 8, "a leading 0 is octal for yaml-cpp");
    assert!(config.container.enabled);
    assert_eq!(config.container.image_endpoint, None);
    assert_eq!(config.container.cri_request_timeout, Some(5));
    assert_eq!(config.container.dns.servers, ["10.0.0.2", "10.0.0.3"]);
    assert!(config.container.sub_id.managed);
    assert_eq!(config.container.sub_id.uid_mappings[0].sub_id_size, 65536);
    assert_eq!(config.container.bind_fs.bindfs_binary, "bindfs");
    assert_eq!(config.container.bind_fs.mount_base_dir, Path::new("mounts"));
}

#[test]
fn an_empty_file_or_section_means_the_defaults() {
    for text in ["", "# nothing\n", "Container:\nSupervisor: ~\n", "Container: {}\n"] {
        assert_eq!(parse(text).unwrap(), (Config::default(), Vec::new()), "{text:?}");
    }
}

#[test]
fn a_key_written_twice_counts_the_first_time_and_is_noted() {
    let (config, notes) = parse("Container:\n  Enabled: true\n  Enabled: false\n").unwrap();
    assert!(config.container.enabled);
    assert_eq!(notes, ["line 3: Container.Enabled is written twice: the first one counts"]);
}

#[test]
fn an_unknown_key_is_noted_inside_our_sections_only() {
    let (_, notes) = parse("Other: {A: 1}\nContainer:\n  Enabeld: true\n  Dns: {Server: [1.1.1.1]}\n").unwrap();
    assert_eq!(
        notes,
        [
            "line 3: Container.Enabeld is not a key we know: ignored",
            "line 4: Container.Dns.Server is not a key we know: ignored"
        ]
    );
}

#[test]
fn a_wrong_type_is_an_error_with_line_and_column() {
    for (text, place) in [
        ("Container:\n  Enabled: maybe\n", "line 2, column 12 (Enabled)"),
        ("Container:\n  Dns:\n    Servers: {a: b}\n", "line 3, column 14"),
        ("Supervisor:\n  MaxLogFileNum: three\n", "line 2, column 18"),
        ("Supervisor: [1]\n", "line 1, column 13"),
        ("Container:\n  Enabled: [\n", "line 2"),
    ] {
        let error = value_error(Path::new("c.yaml"), text, &parse(text).unwrap_err()).to_string();
        assert!(error.contains(place), "{text:?} gave {error}");
        assert_eq!(error.matches("line ").count(), 1, "{error}");
    }
}

#[test]
fn of_a_broken_line_only_its_key_is_shown() {
    let text = "Db:\n  Password: [geheim\nContainer: 1\n";
    let error = value_error(Path::new("c.yaml"), text, &parse(text).unwrap_err()).to_string();
    assert!(!error.contains("geheim"), "{error}");
    assert_eq!((key_in(text, 2), key_in(text, 0), key_in(text, 9)), (Some("Password"), None, None));
    assert_eq!((key_in("geheim and: more\n", 1), key_in("- { Id: x }\n", 1)), (None, Some("Id")));
}

#[test]
fn a_missing_or_absurd_file_is_named() {
    let error = Config::read(Path::new("/nonexistent/config.yaml")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/config.yaml") && error.contains("-C"), "{error}");
    assert!(matches!(Config::read(Path::new("/dev/zero")), Err(ConfigError::TooLarge { .. })));
}

//! Compiles `proto/*.proto` without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["crane.proto", "supervisor.proto", "cri.proto", "containerd.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Requests that carry environment values, arguments, credentials or tokens get no `Debug`.
        .skip_debug([
            "crane.grpc.supervisor.InitSupervisorRequest",
            "crane.grpc.supervisor.QueryStepEnvReply",
            "crane.grpc.StepToD",
            "crane.grpc.ContainerJobAdditionalMeta",
            "crane.grpc.ContainerJobAdditionalMeta.ImageInfo",
            "runtime.v1.AuthConfig",
            "runtime.v1.PullImageRequest",
            "runtime.v1.KeyValue",
            "runtime.v1.ContainerConfig",
            "runtime.v1.CreateContainerRequest",
            "runtime.v1.ExecRequest",
            "runtime.v1.ExecResponse",
            "runtime.v1.AttachResponse",
        ])
        .compile_fds(files)?;
    Ok(())
}

"""sidecar.yml and the environment become `Settings`."""

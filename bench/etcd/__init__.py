"""The part of etcd's gRPC API that is measured; the modules beside are generated."""

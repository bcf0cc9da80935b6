"""The mesh's control plane, `python -m mesh.xds`: tells Envoy and gRPC clients (`xds:///match`) where servers are.

    sources/        who runs where: a watched file, Kubernetes, or the servers' own registration
      -> model      services and their replicas
    policy          how each service is called: timeouts, retries, balancing, breakers (the one table)
      -> resources  both as xDS messages, for everybody; proxyless for gRPC clients, gateway for Envoy at the edge
      -> snapshot   named and versioned by content
    jwks            whose tokens the gateway takes: each issuer's keys, from files and from identity providers
      -> gateway    what checks them goes to Envoy by itself, so that other keys leave open streams alone
    answers, strict what the gateway itself refuses, and how it says so
    subscriptions   what one client asked for and has, state of the world or delta: plain objects without gRPC
    ads             both over gRPC

It is not on the way of any call. While it is down, Envoy and clients go on with what they have; back again, it serves
nobody before its source has said everything once, so that a restart never empties a cluster. A source that fails or
speaks nonsense changes nothing either: the last good snapshot stays.

Who watches health: not the control plane. It passes on what its source knows (readiness in Kubernetes, a server's own
word when registered), and those on the way of calls look for themselves: Envoy asks grpc.health.v1 of every replica
and ejects those that fail, a gRPC client notices broken connections and ejects as well. One more prober would see
another network than the one that calls take, and would have to be up for calls to succeed.
"""

// Command coredns is CoreDNS with the plugins that a cluster's DNS and the servers of tests have, and without those whose libraries take long to build.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func init() {
	// In the order of CoreDNS's own plugin.cfg.
	dnsserver.Directives = []string{"reload", "ready", "health", "errors", "log", "cache", "loadbalance", "hosts", "kubernetes"}
}

func main() {
	coremain.Run()
}

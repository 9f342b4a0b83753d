package main

// linkHosts are the hosts that a service's links lead to. What else a project's
// links may lead to, the relay's file says.
func linkHosts(service string) []string {
	return map[string][]string{
		"npm":      {"www.npmjs.com"},
		"rubygems": {"rubygems.org"},
	}[service]
}

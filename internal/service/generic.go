package service

import "time"

// generic is whatever the flags of `cfa exec` say: signing tools, private
// registries. Nothing is known of it, so nothing is asked again by itself (a token
// locks after three wrong PINs) unless --retries says so.
var generic = &Service{
	Name: Default, Title: "the tool",
	Format: "any", Retries: 0, Life: 30 * time.Second,
}

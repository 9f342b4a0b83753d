// Package clientstest is the real package managers, for tests.
package clientstest

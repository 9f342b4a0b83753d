// This file makes claims shaped like the real ones, for jobs that do not exist.

package devissuer

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// GitHubClaims gives the claims of a job on GitHub Actions in the repository
// repo (OWNER/NAME): all that GitHub always sends, all of them strings, but for
// iss and the times, which [Issuer.Mint] sets. It is a push to refs/heads/main
// that runs .github/workflows/release.yml on GitHub's runners, with GitHub's
// default audience.
//
// over replaces claims; a nil value leaves one out. What follows from a claim
// follows from the replaced one: ref changes ref_type, workflow_ref and sub,
// environment changes sub, and so on. Ids are made from the names, so that equal
// names have equal ids in every run and different names different ones.
func GitHubClaims(repo string, over map[string]any) map[string]any {
	get := func(claim, otherwise string) string {
		if v, ok := over[claim].(string); ok {
			return v
		}
		return otherwise
	}
	repo = get("repository", repo)
	owner, name, _ := strings.Cut(repo, "/")
	owner = get("repository_owner", owner)
	ownerID := get("repository_owner_id", number("owner "+strings.ToLower(owner)))
	repoID := get("repository_id", number("repository "+strings.ToLower(repo)))

	event := get("event_name", "push")
	ref, head, base := "refs/heads/main", "", ""
	if event == "pull_request" {
		ref, head, base = "refs/pull/17/merge", "feature", "main"
	}
	ref = get("ref", ref)
	refType := "branch"
	if strings.HasPrefix(ref, "refs/tags/") {
		refType = "tag"
	}
	sha := get("sha", commit(repo+" "+ref))
	workflowRef := get("workflow_ref", repo+"/.github/workflows/release.yml@"+ref)
	workflowSHA := get("workflow_sha", sha)
	environment := get("environment", "")

	// The form with ids, which repositories have that are younger than July 2026.
	sub := "repo:" + owner + "@" + ownerID + "/" + name + "@" + repoID + ":"
	switch {
	case environment != "":
		sub += "environment:" + strings.ReplaceAll(environment, ":", "%3A")
	case event == "pull_request":
		sub += "pull_request"
	default:
		sub += "ref:" + ref
	}

	claims := map[string]any{
		"sub":                   sub,
		"aud":                   "https://github.com/" + owner,
		"actor":                 "octocat",
		"actor_id":              "583231",
		"base_ref":              base,
		"check_run_id":          number("check run " + repo + " " + ref),
		"event_name":            event,
		"head_ref":              head,
		"job_workflow_ref":      workflowRef,
		"job_workflow_sha":      workflowSHA,
		"ref":                   ref,
		"ref_protected":         "true",
		"ref_type":              refType,
		"repository":            repo,
		"repository_id":         repoID,
		"repository_owner":      owner,
		"repository_owner_id":   ownerID,
		"repository_visibility": "public",
		"run_attempt":           "1",
		"run_id":                number("run " + repo + " " + ref),
		"run_number":            "42",
		"runner_environment":    "github-hosted",
		"sha":                   sha,
		"workflow":              "Release",
		"workflow_ref":          workflowRef,
		"workflow_sha":          workflowSHA,
	}
	if environment != "" {
		claims["environment_node_id"] = "EN_kwDO" + number("environment "+environment)
	}
	overlay(claims, over)
	return claims
}

// CircleCIClaims gives the claims of a job on CircleCI: a build of
// refs/heads/main of github.com/octo-org/octo-repo, with CircleCI's default
// audience (the organization's id). jti and nbf are nil, because CircleCI sends
// neither and [Issuer.Mint] would add them; iss and the times are Mint's.
//
// over replaces claims, by their full names (oidc.circleci.com/…) or without
// that prefix; a nil value leaves one out. sub and aud follow from the rest.
func CircleCIClaims(over map[string]any) map[string]any {
	const prefix = "oidc.circleci.com/"
	claims := map[string]any{
		"jti":                             nil,
		"nbf":                             nil,
		prefix + "org-id":                 "c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e",
		prefix + "project-id":             "3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c",
		prefix + "pipeline-definition-id": "0a1b2c3d-4e5f-5a6b-8c7d-9e0f1a2b3c4d",
		prefix + "pipeline-id":            "9f8e7d6c-5b4a-4c3d-8e2f-1a0b9c8d7e6f",
		prefix + "workflow-id":            "2b3c4d5e-6f7a-4b8c-9d0e-1f2a3b4c5d6e",
		prefix + "job-id":                 "1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9",
		prefix + "context-ids":            []any{"7b6a5c4d-3e2f-4a1b-8c9d-0e1f2a3b4c5d"},
		prefix + "ssh-rerun":              false,
		prefix + "vcs-origin":             "github.com/octo-org/octo-repo",
		prefix + "vcs-ref":                "refs/heads/main",
	}
	full := make(map[string]any, len(over))
	for name, v := range over {
		if _, own := claims[prefix+name]; own {
			name = prefix + name
		}
		full[name] = v
	}
	overlay(claims, full)
	sub := fmt.Sprintf("org/%v/project/%v/user/5e6f7a8b-9c0d-4e1f-a2b3-c4d5e6f7a8b9", claims[prefix+"org-id"], claims[prefix+"project-id"])
	if origin, ref := claims[prefix+"vcs-origin"], claims[prefix+"vcs-ref"]; origin != nil && ref != nil {
		sub += fmt.Sprintf("/vcs-origin/%v/vcs-ref/%v", origin, ref)
	}
	claims["sub"] = sub
	claims["aud"] = claims[prefix+"org-id"]
	overlay(claims, full)
	return claims
}

// overlay replaces claims; nil takes one out. A nil for what Mint would add is
// kept, for Mint to see.
func overlay(claims, over map[string]any) {
	maps.Copy(claims, over)
	maps.DeleteFunc(claims, func(name string, v any) bool { return v == nil && !slices.Contains(minted, name) })
}

// number is a stable id of what it names, as large as GitHub's are.
func number(of string) string {
	sum := sha256.Sum256([]byte(of))
	return strconv.FormatUint(uint64(binary.BigEndian.Uint32(sum[:]))+1_000_000, 10)
}

func commit(of string) string {
	sum := sha256.Sum256([]byte(of))
	return hex.EncodeToString(sum[:20])
}

// This file has a token's payload of each CI, in the shape of the real ones (the
// sources stand in each row's file), and shows what every row has to hold to.

package ci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const unbound = "cfa:v1:relay.example"

const gitlabJob = `{
	"namespace_id": "72", "namespace_path": "octo-group", "project_id": "20", "project_path": "octo-group/octo-project",
	"user_id": "1", "user_login": "sample-user", "user_email": "sample-user@example.com", "user_access_level": "maintainer",
	"user_identities": [{"provider": "github", "extern_uid": "2435223452345"}],
	"job_project_id": "20", "job_project_path": "octo-group/octo-project", "job_namespace_id": "72", "job_namespace_path": "octo-group",
	"pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": "v1.2.0", "ref_type": "tag",
	"ref_path": "refs/tags/v1.2.0", "ref_protected": "true", "groups_direct": ["octo-group"],
	"environment": "npm", "environment_protected": "true", "deployment_tier": "production", "environment_action": "start",
	"runner_id": 1, "runner_environment": "gitlab-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
	"project_visibility": "public",
	"ci_config_ref_uri": "gitlab.com/octo-group/octo-project//.gitlab-ci.yml@refs/tags/v1.2.0",
	"ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
	"jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b", "iss": "https://gitlab.com", "iat": 1795000300, "nbf": 1795000295, "exp": 1795003900,
	"sub": "project_path:octo-group/octo-project:ref_type:tag:ref:v1.2.0", "aud": "cfa:v1:relay.example"}`

const buildkiteJob = `{
	"iss": "https://agent.buildkite.com",
	"sub": "organization:octo-org:pipeline:octo-pipeline:ref:refs/tags/v1.2.0:commit:9f3182061f1e2cca4702c368cbc039b7dc9d4485:step:publish",
	"aud": "cfa:v1:relay.example:UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
	"iat": 1795000300, "nbf": 1795000300, "exp": 1795000600,
	"organization_slug": "octo-org", "pipeline_slug": "octo-pipeline", "build_number": 42, "build_branch": "v1.2.0", "build_tag": "v1.2.0",
	"build_commit": "9f3182061f1e2cca4702c368cbc039b7dc9d4485", "step_key": "publish",
	"job_id": "0184990a-477b-4fa8-9968-496074483cee", "agent_id": "0184990a-4782-42b5-afc1-16715b10b8ff",
	"build_source": "webhook", "runner_environment": "buildkite-hosted",
	"organization_id": "f892efa9-103e-4d28-97a1-3b8616a0994d", "pipeline_id": "0184990a-4782-42b5-afc1-16715b10b1c0",
	"build_id": "019583d7-3737-4e38-af67-f7cc356bd580"}`

const forgejoJob = `{
	"iss": "https://forge.example.org/api/actions", "sub": "repo:octo-5/rocket-4:ref:refs/heads/main",
	"aud": "cfa:v1:relay.example:UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
	"iat": 1795000300, "nbf": 1795000300, "exp": 1795003900,
	"actor": "octo", "actor_id": "5", "base_ref": "", "event_name": "push", "head_ref": "", "ref": "refs/heads/main",
	"ref_protected": "false", "ref_type": "branch", "repository": "octo/rocket", "repository_id": "4", "repository_owner": "octo",
	"repository_owner_id": "5", "run_attempt": "1", "run_id": "792", "run_number": "188",
	"sha": "c2d72f548424103f01ee1dc02889c1e2bff816b0", "workflow": "release.yaml",
	"workflow_ref": "octo/rocket/.forgejo/workflows/release.yaml@refs/heads/main"}`

const googleJob = `{
	"aud": "cfa:v1:relay.example:UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4", "azp": "112233445566778899001",
	"email": "release@octo-project.iam.gserviceaccount.com", "email_verified": true,
	"exp": 1795003900, "iat": 1795000300, "iss": "https://accounts.google.com", "sub": "112233445566778899001"}`

const jenkinsJob = `{
	"iss": "https://ci.example.org/oidc", "aud": "cfa:v1:relay.example", "iat": 1795000300, "exp": 1795003900,
	"sub": "https://ci.example.org/job/rocket/job/main/", "build_number": 42}`

const azureJob = `{
	"jti": "4ae3ae95-2d4c-4a1f-b6f1-2e6d2a1f7a55", "sub": "p://octo/rocket/release", "aud": "api://AzureADTokenExchange",
	"org_id": "6c1b0a52-8a51-4b0c-9d7e-2f9d1e0f1a2b", "prj_id": "7d2c1b63-9b62-4c1d-8e8f-3a0e2f1a2b3c", "def_id": "17",
	"rpo_id": "8e3d2c74-ac73-4d2e-9f90-4b1f3a2b3c4d", "rpo_uri": "https://dev.azure.com/octo/rocket/_git/rocket",
	"rpo_ver": "714a629c0b401fdce83e847fc9589983fc6f46bc", "rpo_ref": "refs/heads/main", "run_id": "9001",
	"iss": "https://vstoken.dev.azure.com/6c1b0a52-8a51-4b0c-9d7e-2f9d1e0f1a2b", "nbf": 1795000300, "exp": 1795001500, "iat": 1795000900}`

const bitbucketJob = `{
	"sub": "{2e9e429c-7b8b-404f-8648-8c40c27c9ebd}:{0f1e2d3c-4b5a-4678-8796-a5b4c3d2e1f0}",
	"stepUuid": "{0f1e2d3c-4b5a-4678-8796-a5b4c3d2e1f0}", "branchName": "main",
	"iss": "https://api.bitbucket.org/2.0/workspaces/octo/pipelines-config/identity/oidc",
	"workspaceUuid": "{7baee083-4f25-4a97-8a9a-0fde1b623b45}", "repositoryUuid": "{2e9e429c-7b8b-404f-8648-8c40c27c9ebd}",
	"pipelineUuid": "{5c6e3881-7804-40d8-be56-c4472a6a74f4}", "pipelineRunUuid": "{6d7f4992-8915-41e9-9f67-d5583b7b85a5}",
	"aud": ["ari:cloud:bitbucket::workspace/7baee083-4f25-4a97-8a9a-0fde1b623b45", "cfa:v1:relay.example"],
	"exp": 1795003900, "iat": 1795000300}`

const semaphoreJob = `{
	"iss": "https://octo.semaphoreci.com", "aud": "https://octo.semaphoreci.com",
	"sub": "org:octo:project:936a5312-a3b8-4921-8b3f-2cec8baac574:repo:rocket:ref_type:branch:ref:refs/heads/main",
	"exp": 1795003900, "iat": 1795000300, "nbf": 1795000300, "jti": "2s557dchalv2mv76kk000el1", "branch": "main", "pr_branch": "", "pr": "",
	"ref": "refs/heads/main", "ref_type": "branch", "tag": "", "repo": "rocket", "repo_slug": "octo/rocket", "org": "octo",
	"org_id": "d7dd33ad-9317-498c-9cc6-51c250749be7", "prj": "rocket", "prj_id": "1e1fcfb5-09c0-487e-b051-2d0b5514c42a",
	"wf_id": "1be81412-6ab8-4fc0-9d0d-7af33335a6ec", "ppl_id": "1e1fcfb5-09c0-487e-b051-2d0b5514c42b",
	"job_type": "pipeline_job", "job_id": "c117e453-1189-4eaf-b03a-dd6538eb49b2", "trg": "h:f-i:f"}`

const vaultJob = `{
	"aud": "cfa:v1:relay.example", "exp": 1795003900, "iat": 1795000300, "iss": "https://vault.example.org/v1/identity/oidc",
	"namespace": "root", "sub": "7c5f1d2e-3a4b-4c5d-8e6f-7a8b9c0d1e2f", "pipeline": "rocket/release", "build": 7, "protected": true}`

var realJobs = []struct {
	p       *Provider
	payload string
}{
	{github, githubJob}, {circleCI, circleJob}, {forgejo, forgejoJob}, {gitlab, gitlabJob}, {buildkite, buildkiteJob},
	{googleCloudBuild, googleJob}, {jenkins, jenkinsJob}, {azure, azureJob}, {bitbucket, bitbucketJob}, {semaphore, semaphoreJob},
	{generic, vaultJob},
}

// hazards are the words of those that are seen, in the row's order.
func hazards(p *Provider, c Claims) string {
	var words []string
	for _, h := range p.Hazards {
		if h.In(c) {
			words = append(words, h.Word)
		}
	}
	return strings.Join(words, " ")
}

func TestHazardsAreSeenInTheClaimsOfEachCI(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		p       *Provider
		payload string
		over    map[string]any
		want    string
	}{
		{"gitlab: a protected tag", gitlab, gitlabJob, nil, ""},
		{"gitlab: a merge request", gitlab, gitlabJob, map[string]any{"pipeline_source": "merge_request_event", "ref_path": "refs/merge-requests/7/head"}, "merge-request"},
		{"gitlab: its ref under another source", gitlab, gitlabJob, map[string]any{"ref_path": "refs/merge-requests/7/merge"}, "merge-request"},
		{"gitlab: a fork's merge request in the parent", gitlab, gitlabJob, map[string]any{"job_project_id": "21"}, "foreign-project"},
		{"gitlab: too old to say where", gitlab, gitlabJob, map[string]any{"job_project_id": nil}, "foreign-project"},
		{"gitlab: a branch that is not protected", gitlab, gitlabJob, map[string]any{"ref_protected": "false"}, "unprotected-ref"},
		{"gitlab: protected as a boolean", gitlab, gitlabJob, map[string]any{"ref_protected": true}, "unprotected-ref"},
		{"gitlab: no configuration", gitlab, gitlabJob, map[string]any{"ci_config_ref_uri": nil}, "foreign-config"},
		{"gitlab: another project's configuration", gitlab, gitlabJob, map[string]any{"ci_config_ref_uri": "gitlab.com/octo-group/shared//ci.yml@refs/heads/main"}, "foreign-config"},
		{"gitlab: a project that ends the same", gitlab, gitlabJob, map[string]any{"ci_config_ref_uri": "gitlab.com/evil/octo-group/octo-project//ci.yml@refs/heads/main"}, "foreign-config"},
		{"gitlab: the same in another case", gitlab, gitlabJob, map[string]any{"ci_config_ref_uri": "gitlab.com/Octo-Group/octo-project//.gitlab-ci.yml@refs/heads/main"}, ""},
		{"gitlab: a trigger token", gitlab, gitlabJob, map[string]any{"pipeline_source": "trigger"}, "trigger"},
		{"gitlab: another project's pipeline", gitlab, gitlabJob, map[string]any{"pipeline_source": "pipeline"}, "trigger"},
		{"gitlab: self-hosted", gitlab, gitlabJob, map[string]any{"runner_environment": "self-hosted"}, "self-hosted"},
		{"gitlab: no runner named", gitlab, gitlabJob, map[string]any{"runner_environment": nil}, "self-hosted"},

		// Every token is of some branch: the rule has to say which.
		{"buildkite: a tag", buildkite, buildkiteJob, nil, "any-branch"},
		{"buildkite: a fork", buildkite, buildkiteJob, map[string]any{"build_branch": "stranger:main"}, "fork any-branch"},
		{"buildkite: by hand", buildkite, buildkiteJob, map[string]any{"build_source": "ui"}, "any-branch chosen-commit"},
		{"buildkite: by the API", buildkite, buildkiteJob, map[string]any{"build_source": "api"}, "any-branch chosen-commit"},
		{"buildkite: by another pipeline", buildkite, buildkiteJob, map[string]any{"build_source": "trigger_job"}, "any-branch chosen-commit"},
		{"buildkite: an older server", buildkite, buildkiteJob, map[string]any{"build_source": nil, "runner_environment": nil}, "any-branch chosen-commit self-hosted"},
		{"buildkite: on time", buildkite, buildkiteJob, map[string]any{"build_source": "schedule"}, "any-branch"},
		{"buildkite: self-hosted", buildkite, buildkiteJob, map[string]any{"runner_environment": "self-hosted"}, "any-branch self-hosted"},

		{"forgejo: a push", forgejo, forgejoJob, nil, ""},
		{"forgejo: a pull request", forgejo, forgejoJob, map[string]any{"event_name": "pull_request", "ref": "refs/pull/7/merge"}, "pull_request"},
		{"forgejo: pull_request_target", forgejo, forgejoJob, map[string]any{"event_name": "pull_request_target"}, "pull_request_target"},
		{"forgejo: a comment", forgejo, forgejoJob, map[string]any{"event_name": "issue_comment"}, "outsider-event"},
		{"forgejo: another repository's workflow", forgejo, forgejoJob, map[string]any{"workflow_ref": "octo/shared/.forgejo/workflows/release.yaml@refs/heads/main"}, "foreign-workflow"},

		{"google: always", googleCloudBuild, googleJob, nil, "service-account"},
		{"google: a person", googleCloudBuild, googleJob, map[string]any{"email": "ana@example.com"}, "service-account person"},

		{"jenkins: a build", jenkins, jenkinsJob, nil, ""},
		{"jenkins: no build", jenkins, jenkinsJob, map[string]any{"sub": "https://ci.example.org/", "build_number": nil}, "no-build"},
		{"jenkins: a template that makes it a text", jenkins, jenkinsJob, map[string]any{"build_number": "42"}, ""},

		{"azure: a push", azure, azureJob, nil, ""},
		{"azure: a pull request", azure, azureJob, map[string]any{"rpo_ref": "refs/pull/7/merge"}, "pull_request"},
		{"bitbucket", bitbucket, bitbucketJob, nil, "any-branch"},
		{"semaphore: a push", semaphore, semaphoreJob, nil, ""},
		{"semaphore: a pull request", semaphore, semaphoreJob, map[string]any{"ref_type": "pull-request"}, "pull-request"},
		{"semaphore: a debug job", semaphore, semaphoreJob, map[string]any{"job_type": "project_debug_job"}, "debug-job"},
		{"generic", generic, vaultJob, nil, ""},
	} {
		if got := hazards(tt.p, job(t, tt.payload, tt.over)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	for _, p := range Providers {
		for _, h := range p.Hazards {
			// A rule of CircleCI's has to name an origin only where there is one.
			if h.Word != "any-origin" && !h.In(Claims{}) {
				t.Errorf("%s: %s is not seen where the claims do not say", p.Name, h.Word)
			}
		}
	}
}

func TestAHumanIsShownWhatTheClaimsOfEachCISay(t *testing.T) {
	t.Parallel()
	const tag = "refs/tags/v1.2.0"
	for _, tt := range []struct {
		p       *Provider
		payload string
		want    Facts
	}{
		{gitlab, gitlabJob, Facts{
			Repository: "octo-group/octo-project", WorkflowFile: ".gitlab-ci.yml", Ref: tag, SHA: "714a629c0b401fdce83e847fc9589983fc6f46bc",
			Environment: "npm", Event: "push", Actor: "sample-user", RunURL: "https://gitlab.com/octo-group/octo-project/-/jobs/302",
			RunID: "574", Job: "302", Runner: "gitlab-hosted", Group: "20/574",
		}},
		{buildkite, buildkiteJob, Facts{
			Repository: "octo-org/octo-pipeline", Workflow: "publish", Ref: tag, SHA: "9f3182061f1e2cca4702c368cbc039b7dc9d4485", Event: "webhook",
			RunURL: "https://buildkite.com/octo-org/octo-pipeline/builds/42#0184990a-477b-4fa8-9968-496074483cee",
			RunID:  "019583d7-3737-4e38-af67-f7cc356bd580", Job: "0184990a-477b-4fa8-9968-496074483cee", Runner: "buildkite-hosted",
			Group: "019583d7-3737-4e38-af67-f7cc356bd580",
		}},
		{forgejo, forgejoJob, Facts{
			Repository: "octo/rocket", Workflow: "release.yaml", WorkflowFile: ".forgejo/workflows/release.yaml", Ref: "refs/heads/main",
			SHA: "c2d72f548424103f01ee1dc02889c1e2bff816b0", Event: "push", Actor: "octo", RunURL: "https://forge.example.org/octo/rocket/actions/runs/188",
			RunID: "792", RunAttempt: "1", Group: "4/792/1",
		}},
		{googleCloudBuild, googleJob, Facts{Repository: "release@octo-project.iam.gserviceaccount.com"}},
		{jenkins, jenkinsJob, Facts{
			Repository: "https://ci.example.org/job/rocket/job/main/", RunID: "42",
			RunURL: "https://ci.example.org/job/rocket/job/main/42/", Group: "https://ci.example.org/job/rocket/job/main/42",
		}},
		{azure, azureJob, Facts{
			Repository: "https://dev.azure.com/octo/rocket/_git/rocket", Ref: "refs/heads/main", SHA: "714a629c0b401fdce83e847fc9589983fc6f46bc",
			RunID: "9001", Group: "9001",
		}},
		{bitbucket, bitbucketJob, Facts{
			Repository: "{2e9e429c-7b8b-404f-8648-8c40c27c9ebd}", Ref: "refs/heads/main", RunID: "{5c6e3881-7804-40d8-be56-c4472a6a74f4}",
			Job: "{0f1e2d3c-4b5a-4678-8796-a5b4c3d2e1f0}", Group: "{5c6e3881-7804-40d8-be56-c4472a6a74f4}",
		}},
		{semaphore, semaphoreJob, Facts{
			Repository: "octo/rocket", Ref: "refs/heads/main", Event: "branch", RunID: "1be81412-6ab8-4fc0-9d0d-7af33335a6ec",
			RunURL: "https://octo.semaphoreci.com/workflows/1be81412-6ab8-4fc0-9d0d-7af33335a6ec",
			Job:    "c117e453-1189-4eaf-b03a-dd6538eb49b2", Group: "1be81412-6ab8-4fc0-9d0d-7af33335a6ec",
		}},
		{generic, vaultJob, Facts{Repository: "7c5f1d2e-3a4b-4c5d-8e6f-7a8b9c0d1e2f"}},
	} {
		if got := tt.p.Facts(job(t, tt.payload, nil)); got != tt.want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", tt.p.Name, got, tt.want)
		}
		if got := tt.p.Facts(Claims{}); got != (Facts{}) {
			t.Errorf("%s: of nothing: %+v", tt.p.Name, got)
		}
	}
	// A link is made of checked parts only.
	for _, tt := range []struct {
		p       *Provider
		payload string
		over    map[string]any
		want    string
	}{
		{gitlab, gitlabJob, map[string]any{"iss": "https://gitlab.example.org/git"}, "https://gitlab.example.org/git/octo-group/octo-project/-/jobs/302"},
		{gitlab, gitlabJob, map[string]any{"job_project_path": "parent/project"}, "https://gitlab.com/parent/project/-/jobs/302"},
		{gitlab, gitlabJob, map[string]any{"iss": "http://127.0.0.1:4711"}, ""},
		{gitlab, gitlabJob, map[string]any{"iss": "https://gitlab.com@evil.example"}, ""},
		{gitlab, gitlabJob, map[string]any{"job_project_path": nil, "project_path": "octo-group/../evil"}, ""},
		{gitlab, gitlabJob, map[string]any{"job_id": "302/../.."}, ""},
		{buildkite, buildkiteJob, map[string]any{"iss": "https://agent.buildkite.com.evil.example"}, ""},
		{buildkite, buildkiteJob, map[string]any{"pipeline_slug": "../x"}, ""},
		{buildkite, buildkiteJob, map[string]any{"build_number": json.Number("4e2")}, ""},
		{buildkite, buildkiteJob, map[string]any{"job_id": "x"}, "https://buildkite.com/octo-org/octo-pipeline/builds/42"},
		{forgejo, forgejoJob, map[string]any{"iss": "https://forge.example.org/git/api/actions"}, "https://forge.example.org/git/octo/rocket/actions/runs/188"},
		{forgejo, forgejoJob, map[string]any{"iss": "https://forge.example.org"}, ""},
		{forgejo, forgejoJob, map[string]any{"iss": "http://forge.example.org/api/actions"}, ""},
		{forgejo, forgejoJob, map[string]any{"repository": "octo/.."}, ""},
		{forgejo, forgejoJob, map[string]any{"run_number": nil}, ""},
		{jenkins, jenkinsJob, map[string]any{"sub": "https://evil.example/job/rocket/"}, ""},
		{jenkins, jenkinsJob, map[string]any{"sub": "https://ci.example.org/job/rocket/?x=/"}, ""},
		{jenkins, jenkinsJob, map[string]any{"sub": "jenkins:main:42"}, ""},
		{jenkins, jenkinsJob, map[string]any{"build_number": "42/../x"}, ""},
		{semaphore, semaphoreJob, map[string]any{"iss": "https://octo.semaphoreci.com.evil.example"}, ""},
	} {
		if got := tt.p.Facts(job(t, tt.payload, tt.over)).RunURL; got != tt.want {
			t.Errorf("%s with %v: run link %q, want %q", tt.p.Name, tt.over, got, tt.want)
		}
	}
	if got := buildkite.Facts(job(t, buildkiteJob, map[string]any{"build_tag": nil, "build_branch": "main", "step_key": nil})); got.Ref != "refs/heads/main" || got.Workflow != "" {
		t.Errorf("a branch: %+v", got)
	}
	if got := gitlab.Facts(job(t, gitlabJob, map[string]any{"ci_config_ref_uri": "gitlab.com/octo-group/shared//ci/a@b.yml@refs/heads/main"})).WorkflowFile; got != "octo-group/shared/ci/a@b.yml" {
		t.Errorf("a foreign file: %q", got)
	}
}

// A CI that can name the job's key in its tokens must not be called one that
// cannot, under whatever name: then the relay's word would do for the key.
func TestWhatCanBeBoundIsNotCalledUnbound(t *testing.T) {
	t.Parallel()
	can := []string{
		"https://token.actions.githubusercontent.com", "https://token.actions.githubusercontent.com/octo-inc",
		"https://token.actions.octocorp.ghe.com", "https://git.example.org/_services/token",
		"https://oidc.circleci.com", "https://oidc.circleci.com/org/c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e",
		"https://agent.buildkite.com", "https://accounts.google.com", "https://forge.example.org/api/actions",
	}
	cannot := []string{"https://gitlab.com", "https://gitlab.example.org", "https://ci.example.org/oidc", "https://vault.example.org/v1/identity/oidc", "http://127.0.0.1:4711"}
	for _, p := range Providers {
		if p.Unusable != "" {
			for _, issuer := range slices.Concat(can, cannot) {
				if err := p.CheckIssuer(issuer); err == nil || err.Error() != p.Unusable {
					t.Errorf("%s for %s: %v", p.Name, issuer, err)
				}
			}
			continue
		}
		for _, issuer := range can {
			if err := p.CheckIssuer(issuer); (err == nil) != p.Bound {
				t.Errorf("%s for %s: %v", p.Name, issuer, err)
			} else if err != nil && !strings.Contains(err.Error(), "write ") {
				t.Errorf("%s for %s: the error does not say what to write: %v", p.Name, issuer, err)
			}
		}
		for _, issuer := range cannot {
			if err := p.CheckIssuer(issuer); err != nil {
				t.Errorf("%s for %s: %v", p.Name, issuer, err)
			}
		}
	}
}

func TestACIThatCannotVouchForItsJobsSaysSo(t *testing.T) {
	t.Parallel()
	for _, p := range []*Provider{azure, bitbucket, semaphore} {
		e := env("SYSTEM_OIDCREQUESTURI", "https://dev.azure.example/x", "SYSTEM_ACCESSTOKEN", bearer, "BITBUCKET_STEP_OIDC_TOKEN", jwt, "SEMAPHORE_OIDC_TOKEN", jwt)
		e.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			t.Errorf("%s: asked %s", p.Name, r.URL)
			return nil, errors.New("no")
		})}
		token, err := p.Token(t.Context(), e, unbound)
		if token != "" || !errors.Is(err, ErrNotGranted) {
			t.Errorf("%s: %q, %v", p.Name, token, err)
		}
		noSecret(t, err)
		for _, part := range []string{p.Title, "audience", "generic", givenToken} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error does not say %q: %v", p.Name, part, err)
			}
		}
		if p.Bound || len(p.Redactor) > 0 {
			t.Errorf("%s: it is said to be able to do more", p.Name)
		}
	}
	// In such a CI the log is still that CI's.
	p, err := Detect(env("TF_BUILD", "True", "CFA_ID_TOKEN", "x"))
	if err != nil || p.Name != "generic" {
		t.Fatalf("%v, %v", p, err)
	}
	if line, ok := p.Mask("123456"); !ok || line != "##vso[task.setsecret]123456" {
		t.Errorf("Mask = %q, %v", line, ok)
	}
	if p, _ := Detect(env("CFA_ID_TOKEN", "x")); p != generic {
		t.Error("generic by itself is not the table's row")
	}
}

// live gives a payload times that are now, and another audience.
func live(t *testing.T, payload, audience string, over map[string]any) string {
	t.Helper()
	now := time.Now().Unix()
	all := map[string]any{"iat": now - 900, "nbf": now - 900, "exp": now + 2700, "aud": audience}
	maps.Copy(all, over)
	b, err := json.Marshal(job(t, payload, all))
	if err != nil {
		t.Fatal(err)
	}
	return compact(`{"typ":"JWT","alg":"RS256","kid":"k"}`, string(b), "the-signature-of-the-token")
}

func TestATokenThatTheJobWasGivenIsTakenOnlyForOurAudienceAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(content string) string {
		f, err := os.CreateTemp(dir, "token-")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(content); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	for _, row := range []struct {
		p       *Provider
		payload string
	}{{gitlab, gitlabJob}, {jenkins, jenkinsJob}, {generic, vaultJob}} {
		token := live(t, row.payload, unbound, nil)
		array := live(t, row.payload, unbound, map[string]any{"aud": []any{unbound}})
		for name, tt := range map[string]struct {
			env  []string
			want string // "" for success
		}{
			"a variable":        {[]string{givenToken, token}, ""},
			"one in an array":   {[]string{givenToken, array}, ""},
			"with a line break": {[]string{givenToken, token + "\n"}, ""},
			"a file":            {[]string{givenFile, file(token + "\n")}, ""},
			"nothing":           {nil, "neither CFA_ID_TOKEN nor CFA_ID_TOKEN_FILE is set"},
			"both":              {[]string{givenToken, token, givenFile, file(token)}, "both set"},
			"another relay":     {[]string{givenToken, live(t, row.payload, "cfa:v1:other.example", nil)}, "is not for the audience " + unbound},
			"the key's":         {[]string{givenToken, live(t, row.payload, aud, nil)}, "is not for the audience " + unbound},
			"several":           {[]string{givenToken, live(t, row.payload, "", map[string]any{"aud": []any{unbound, "sts.example"}})}, "alone"},
			"none":              {[]string{givenToken, live(t, row.payload, "", map[string]any{"aud": nil})}, "is not for the audience"},
			"no token":          {[]string{givenToken, bearer}, "not an ID token"},
			"no longer good":    {[]string{givenToken, live(t, row.payload, unbound, map[string]any{"exp": time.Now().Unix() - 120})}, "has expired"},
			"no file":           {[]string{givenFile, filepath.Join(dir, leak)}, "the file of CFA_ID_TOKEN_FILE is not there"},
			"a folder":          {[]string{givenFile, dir}, "no plain file"},
			"a token as a path": {[]string{givenFile, token}, "is not there"},
			"a huge file":       {[]string{givenFile, file(strings.Repeat("x", maxAnswer+1))}, "more than 65536 bytes"},
		} {
			got, err := row.p.Token(t.Context(), env(tt.env...), unbound)
			if tt.want == "" && (err != nil || got != token && got != array) {
				t.Errorf("%s, %s: %v", row.p.Name, name, err)
			}
			if tt.want != "" && (err == nil || got != "" || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%s, %s: %v, want %q", row.p.Name, name, err, tt.want)
			}
			if err != nil && errors.Is(err, ErrGiven) == errors.Is(err, ErrNotGranted) {
				t.Errorf("%s, %s: of no kind, or of both: %v", row.p.Name, name, err)
			}
			noSecret(t, err)
			if err != nil && strings.Contains(err.Error(), strings.Split(token, ".")[1]) {
				t.Errorf("%s, %s: the error shows the token", row.p.Name, name)
			}
		}
		if _, err := row.p.Token(t.Context(), env(), unbound); !errors.Is(err, ErrNotGranted) || !strings.Contains(err.Error(), unbound) {
			t.Errorf("%s: what to set up is not said: %v", row.p.Name, err)
		}
	}
	// A pipe would be waited for.
	if mkfifo, err := exec.LookPath("mkfifo"); err == nil {
		pipe := filepath.Join(dir, "pipe")
		if err := exec.Command(mkfifo, pipe).Run(); err != nil {
			t.Fatal(err)
		}
		if _, err := generic.Token(t.Context(), env(givenFile, pipe), unbound); err == nil {
			t.Error("a pipe was read")
		}
	}
}

func TestBuildkitesTokenIsAskedForWithOurAudienceAndTheIDs(t *testing.T) {
	t.Parallel()
	token := compact(`{"alg":"RS256"}`, buildkiteJob, "the-signature-of-the-token")
	var w waits
	var calls []string
	got, err := buildkite.Token(t.Context(), program(&w, &calls, fails(errors.New("exit status 1: "+leak)), prints(token+"\n")), aud)
	if err != nil || got != token || len(w) != 1 {
		t.Fatalf("%q, %v after %v", got, err, w)
	}
	const want = "buildkite-agent oidc request-token --audience " + aud + " --claim organization_id,pipeline_id,build_id"
	if len(calls) != 2 || calls[0] != want || calls[1] != want {
		t.Errorf("ran %q", calls)
	}
	// Without the ids it is no token of ours.
	for _, id := range strings.Split(buildkiteClaims, ",") {
		if err := buildkite.Check(job(t, buildkiteJob, map[string]any{id: nil})); err == nil || !strings.Contains(err.Error(), id) {
			t.Errorf("without %s: %v", id, err)
		}
	}
	calls = nil
	_, err = buildkite.Token(t.Context(), program(new(waits), &calls, fails(&exec.Error{Name: "buildkite-agent", Err: exec.ErrNotFound})), aud)
	if !errors.Is(err, ErrNoCommand) || !strings.Contains(err.Error(), "the `buildkite-agent` command was not found") || len(calls) != 1 {
		t.Errorf("not there: %v", err)
	}
	_, err = buildkite.Token(t.Context(), program(new(waits), new([]string), fails(errors.New(leak))), aud)
	if err == nil || !strings.Contains(err.Error(), "--claim") {
		t.Errorf("fails: %v", err)
	}
	noSecret(t, err)
	_, err = buildkite.Token(t.Context(), program(new(waits), new([]string), prints(compact(`{}`, `{"aud":"https://buildkite.com/octo-org"}`, leak))), aud)
	if err == nil || !strings.Contains(err.Error(), "another audience") {
		t.Errorf("the default audience: %v", err)
	}
}

func TestForgejosTokenIsAskedForAsGitHubsIs(t *testing.T) {
	t.Parallel()
	token := compact(`{"typ":"JWT","alg":"RS256","kid":"k"}`, forgejoJob, "the-signature-of-the-token")
	status := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("audience") != aud || r.Header.Get("Authorization") != "Bearer "+bearer {
			t.Errorf("asked %s with %v", r.URL, r.Header)
		}
		w.WriteHeader(status)
		io.WriteString(w, value(token))
	}))
	defer s.Close()
	e := jobEnv(s.URL+"/api/actions/_apis/pipelines/workflows/792/idtoken?placeholder=true", new(waits))
	if got, err := forgejo.Token(t.Context(), e, aud); err != nil || got != token {
		t.Errorf("%q, %v", got, err)
	}
	status = http.StatusUnauthorized
	_, err := forgejo.Token(t.Context(), e, aud)
	if !errors.Is(err, ErrNotGranted) || !strings.Contains(err.Error(), "Forgejo's token service answered 401") || !strings.Contains(err.Error(), "enable-openid-connect") {
		t.Errorf("%v", err)
	}
	noSecret(t, err)
	if _, err := forgejo.Token(t.Context(), env(), aud); !errors.Is(err, ErrNotGranted) || !strings.Contains(err.Error(), "enable-openid-connect") {
		t.Errorf("%v", err)
	}
}

func TestGooglesTokenIsAskedForAtTheMetadataServer(t *testing.T) {
	t.Parallel()
	token := compact(`{"typ":"JWT","alg":"RS256","kid":"k"}`, googleJob, "the-signature-of-the-token")
	for _, tt := range []struct {
		name    string
		answers []string // status, whether it is Google's, body
		asked   int
		want    string
	}{
		{"at once", []string{"200 yes " + token}, 1, ""},
		{"after a failure", []string{"503 yes " + leak, "200 yes " + token + "\n"}, 2, ""},
		{"the default account", []string{"404 yes " + leak}, 1, "roles/iam.serviceAccountOpenIdTokenCreator"},
		{"no right", []string{"403 yes " + leak}, 1, "serviceAccount:"},
		{"somebody else's", []string{"200 no " + token}, 1, "not Google's metadata server"},
		{"nothing", []string{"200 yes "}, 1, "without a token"},
		{"no token", []string{"200 yes " + leak}, 1, "not an ID token"},
		{"another audience", []string{"200 yes " + compact(`{}`, `{"aud":"https://example.com"}`, leak)}, 1, "another audience"},
		{"too much", []string{"200 yes " + strings.Repeat("x", maxAnswer+1)}, 1, "more than 65536 bytes"},
	} {
		asked := 0
		e := Env{Getenv: func(string) string { return "" }, Wait: new(waits).wait}
		e.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			asked++
			if r.URL.Host != "metadata.google.internal" || r.URL.Query().Get("audience") != aud || r.URL.Query().Get("format") != "full" || r.Header.Get("Metadata-Flavor") != "Google" {
				t.Errorf("%s: asked %s with %v", tt.name, r.URL, r.Header)
			}
			var status int
			var google, body string
			answer := tt.answers[min(asked, len(tt.answers))-1]
			fmt.Sscanf(answer, "%d %s", &status, &google)
			if parts := strings.SplitN(answer, " ", 3); len(parts) == 3 {
				body = parts[2]
			}
			h := http.Header{}
			if google == "yes" {
				h.Set("Metadata-Flavor", "Google")
			}
			return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		})}
		got, err := googleCloudBuild.Token(t.Context(), e, aud)
		if tt.want == "" && (err != nil || got != token) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
		if tt.want != "" && (err == nil || got != "" || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if asked != tt.asked {
			t.Errorf("%s: asked %d times", tt.name, asked)
		}
		noSecret(t, err)
	}
}

func TestACodeIsHiddenAsEachCIWantsIt(t *testing.T) {
	t.Parallel()
	const code = "918273"
	for _, p := range Providers {
		var log strings.Builder
		var ran, fed []string
		e := Env{Feed: func(_ context.Context, input, name string, args ...string) error {
			fed = append(fed, input)
			ran = append(ran, strings.Join(append([]string{name}, args...), " "))
			return nil
		}}
		want := map[string]string{
			"github": "::add-mask::918273\n", "forgejo": "::add-mask::918273\n", "azure-pipelines": "##vso[task.setsecret]918273\n",
		}[p.Name]
		hidden, err := p.Hide(t.Context(), e, &log, code)
		if err != nil || log.String() != want {
			t.Errorf("%s: wrote %q, %v", p.Name, log.String(), err)
		}
		if p == buildkite {
			if !slices.Equal(ran, []string{"buildkite-agent redactor add"}) || !slices.Equal(fed, []string{code}) {
				t.Errorf("ran %q with %q", ran, fed)
			}
		} else if len(ran) != 0 {
			t.Errorf("%s: ran %q", p.Name, ran)
		}
		if able := want != "" || p == buildkite; hidden != able || p.Hides() != able {
			t.Errorf("%s: hidden %v, Hides %v", p.Name, hidden, p.Hides())
		}
		log.Reset()
		if hidden, err := p.Hide(t.Context(), e, &log, " "); hidden || err != nil || log.Len() != 0 {
			t.Errorf("%s: blank: %v, %v", p.Name, hidden, err)
		}
	}
	for _, odd := range []string{"a%b", "a\nb", ""} {
		if line, ok := azureMask(odd); ok {
			t.Errorf("azure masks %q as %q", odd, line)
		}
	}
	if _, err := github.Hide(t.Context(), Env{}, failing{}, code); err == nil {
		t.Error("a log that cannot be written hides")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no") }

// The code reaches the command on its standard input, and neither its arguments
// nor an error.
func TestTheCommandThatHidesGetsTheCodeOnItsInput(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "seen")
	p := *buildkite
	p.Redactor = []string{self, "redactor", "add"}
	t.Setenv("CFA_TEST_PROGRAM", "redact")
	t.Setenv("CFA_TEST_OUT", out)
	if err := p.ReadyToHide(Env{}); err != nil {
		t.Fatal(err)
	}
	if hidden, err := p.Hide(t.Context(), Env{}, io.Discard, "918273"); err != nil || !hidden {
		t.Fatalf("%v, %v", hidden, err)
	}
	seen, err := os.ReadFile(out)
	if err != nil || string(seen) != `["redactor" "add"] 918273` {
		t.Errorf("%s, %v", seen, err)
	}
	t.Setenv("CFA_TEST_PROGRAM", "fail")
	if hidden, err := p.Hide(t.Context(), Env{}, io.Discard, leak); hidden || err == nil || !strings.Contains(err.Error(), "status 3") {
		t.Errorf("%v, %v", hidden, err)
	} else {
		noSecret(t, err)
	}
	p.Redactor = []string{"no-such-command-anywhere"}
	if err := p.ReadyToHide(Env{}); err == nil || !strings.Contains(err.Error(), "not on the PATH") {
		t.Errorf("%v", err)
	}
	if hidden, err := p.Hide(t.Context(), Env{}, io.Discard, "1"); hidden || err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("%v, %v", hidden, err)
	}
}

func TestWhoConfiguresAnIssuerSaysWhichClaimsAreIDs(t *testing.T) {
	t.Parallel()
	p, err := generic.Requiring([]string{"pipeline", "build"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.IDs, []string{"sub", "pipeline", "build"}) || len(generic.IDs) != 1 || len(generic.Claims) != 2 {
		t.Errorf("ids %q; the row has %q and %v", p.IDs, generic.IDs, generic.Claims)
	}
	if err := p.Check(job(t, vaultJob, nil)); err != nil {
		t.Errorf("%v", err)
	}
	for _, over := range []map[string]any{{"pipeline": nil}, {"pipeline": ""}, {"pipeline": []any{"x"}}, {"build": map[string]any{}}} {
		if err := p.Check(job(t, vaultJob, over)); err == nil {
			t.Errorf("%v passed", over)
		}
	}
	null := job(t, vaultJob, nil)
	null["pipeline"] = nil
	if err := p.Check(null); err == nil {
		t.Error("a null id passed")
	}
	if same, err := github.Requiring(nil); err != nil || same != github {
		t.Errorf("none: %v", err)
	}
	for _, ids := range [][]string{{"sub"}, {"x", "x"}, {""}, {"a b"}, {"aud"}, {"jti"}, {"exp"}, {strings.Repeat("x", 101)}} {
		if _, err := generic.Requiring(ids); err == nil {
			t.Errorf("%q: taken", ids)
		}
	}
	if _, err := github.Requiring([]string{"actor_id"}); err == nil {
		t.Error("a row that knows its ids takes others")
	}
	for name, want := range map[string]bool{"pipeline": true, "kubernetes.io/x": true, "a b": false, "": false} {
		if _, ok := generic.Claim(name); ok != want {
			t.Errorf("generic knows %q: %v", name, ok)
		}
	}
	if _, ok := github.Claim("pipeline"); ok {
		t.Error("github knows any claim")
	}
}

// What the documents say of each row is what the row says.
func TestTheDocumentsSayOfEachCIWhatItsRowSays(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	readme, protocol := read("README.md"), read("PROTOCOL.md")
	row := func(text, begins string) []string {
		for _, line := range strings.Split(text, "\n") {
			if strings.HasPrefix(line, begins) {
				return strings.Split(strings.Trim(line, "| "), " | ")
			}
		}
		return nil
	}
	for _, p := range Providers {
		cells := row(readme, "| "+p.Title+" | `"+p.Name+"` |")
		if len(cells) < 5 {
			t.Errorf("README.md: no line for %s", p.Name)
			continue
		}
		bound := map[bool]string{true: "yes", false: "no"}[p.Bound]
		if p.Unusable != "" {
			bound = "refused"
		}
		if cells[2] != bound {
			t.Errorf("README.md: %s names the key: %s, want %s", p.Name, cells[2], bound)
		}
		hides := "nothing"
		if line, ok := p.Mask(""); ok {
			t.Errorf("%s masks nothing as %q", p.Name, line)
		}
		if line, ok := p.Mask("x"); ok {
			hides = "`" + strings.TrimSuffix(line, "x") + "`"
		} else if len(p.Redactor) > 0 {
			hides = "`" + strings.Join(p.Redactor, " ") + "`"
		}
		if cells[3] != hides {
			t.Errorf("README.md: %s hides by %s, want %s", p.Name, cells[3], hides)
		}
		if p.Unusable != "" {
			if row(protocol, "| `"+p.Name+"` | ") != nil || !strings.Contains(protocol, p.Title) {
				t.Errorf("PROTOCOL.md: %s has a proof, or is not named", p.Name)
			}
			continue
		}
		for _, id := range p.IDs {
			if !strings.Contains(cells[4], "`"+strings.TrimPrefix(id, circlePrefix)+"`") {
				t.Errorf("README.md: a rule for %s names %s, want %s too", p.Name, cells[4], id)
			}
		}
		for _, h := range p.Hazards {
			if !strings.Contains(readme, "`"+h.Word+"`") && !strings.Contains(read("examples/cfa.yaml"), h.Word) {
				t.Errorf("the danger %s of %s is explained nowhere", h.Word, p.Name)
			}
		}
		var proof []string
		for _, claim := range p.Proof {
			proof = append(proof, "`"+strings.TrimPrefix(claim, circlePrefix)+"`")
		}
		cells = row(protocol, "| `"+p.Name+"` | ")
		if want := strings.Join(proof, ", "); len(cells) != 2 || !strings.HasSuffix(cells[1], want) || strings.Count(cells[1], "`") != 2*len(proof)+map[bool]int{true: 2}[p == circleCI] {
			t.Errorf("PROTOCOL.md: the proof of %s is %q, want %s", p.Name, cells, want)
		}
	}
}

// Whatever a payload says, no row's reading of it panics, and a link that a human
// may click on is an address of https without anything that hides its host.
func FuzzFacts(f *testing.F) {
	for _, row := range realJobs {
		f.Add([]byte(row.payload))
	}
	f.Add([]byte(`{"iss":"https://gitlab.com/\u202e","project_path":"a/b","job_id":"1"}`))
	f.Add([]byte(`{"iss":"https://exämple.org/api/actions","repository":"a/b","run_number":"1"}`))
	f.Add([]byte(`{"iss":"https://exämple.org/_services/token","repository":"a/b","run_id":"1","run_attempt":"1"}`))
	f.Add([]byte(`{"iss":"https://gïtlab.com","project_path":"a/b","job_id":"1"}`))
	f.Add([]byte(`{"sub":"https://cï/x/","iss":"https://cï/oidc","build_number":1}`))
	f.Add([]byte(`{"iss":"https://x@y/api/actions","repository":"a/b","run_number":"1"}`))
	f.Add([]byte(`{"sub":"https://ci/%2e%2e/","iss":"https://ci/oidc","build_number":1}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := Decode(payload)
		if err != nil {
			return
		}
		for _, p := range Providers {
			_ = p.Check(c)
			_ = hazards(p, c)
			link := p.Facts(c).RunURL
			if link == "" {
				continue
			}
			u, err := url.Parse(link)
			if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
				t.Errorf("%s: run link %q", p.Name, link)
			}
			if i := strings.IndexFunc(link, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
				t.Errorf("%s: run link %q", p.Name, link)
			}
		}
	})
}

// This file makes claims shaped like those of the CIs that are not GitHub or
// CircleCI.

package devissuer

import (
	"fmt"
	"maps"
	"slices"

	"github.com/continuousauth/action/internal/ci"
)

// shapes are the claims of one job of each CI, but for iss, aud and the times. A
// nil keeps away what [Issuer.Mint] would add and that CI does not send.
var shapes = map[string]map[string]any{
	"gitlab": {
		"sub":          "project_path:octo-group/octo-project:ref_type:tag:ref:v1.2.0",
		"namespace_id": "72", "namespace_path": "octo-group", "project_id": "20", "project_path": "octo-group/octo-project",
		"job_project_id": "20", "job_project_path": "octo-group/octo-project", "job_namespace_id": "72", "job_namespace_path": "octo-group",
		"user_id": "1", "user_login": "sample-user", "user_email": "sample-user@example.com", "user_access_level": "maintainer",
		"user_identities": []any{map[string]any{"provider": "github", "extern_uid": "2435223452345"}}, "groups_direct": []any{"octo-group"},
		"pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": "v1.2.0", "ref_type": "tag", "ref_path": "refs/tags/v1.2.0",
		"ref_protected": "true", "environment": "npm", "environment_protected": "true", "deployment_tier": "production", "environment_action": "start",
		"runner_id": 1, "runner_environment": "gitlab-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "project_visibility": "public",
		"ci_config_ref_uri": "gitlab.com/octo-group/octo-project//.gitlab-ci.yml@refs/tags/v1.2.0", "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
	},
	"buildkite": {
		"jti":               nil,
		"sub":               "organization:octo-org:pipeline:octo-pipeline:ref:refs/tags/v1.2.0:commit:9f3182061f1e2cca4702c368cbc039b7dc9d4485:step:publish",
		"organization_slug": "octo-org", "pipeline_slug": "octo-pipeline", "build_number": 42, "build_branch": "v1.2.0", "build_tag": "v1.2.0",
		"build_commit": "9f3182061f1e2cca4702c368cbc039b7dc9d4485", "step_key": "publish", "job_id": "0184990a-477b-4fa8-9968-496074483cee",
		"agent_id": "0184990a-4782-42b5-afc1-16715b10b8ff", "build_source": "webhook", "runner_environment": "buildkite-hosted",
		"organization_id": "f892efa9-103e-4d28-97a1-3b8616a0994d", "pipeline_id": "0184990a-4782-42b5-afc1-16715b10b1c0",
		"build_id": "019583d7-3737-4e38-af67-f7cc356bd580",
	},
	"forgejo": {
		"jti": nil, "sub": "repo:octo-5/rocket-4:ref:refs/heads/main",
		"actor": "octo", "actor_id": "5", "base_ref": "", "event_name": "push", "head_ref": "", "ref": "refs/heads/main", "ref_protected": "false",
		"ref_type": "branch", "repository": "octo/rocket", "repository_id": "4", "repository_owner": "octo", "repository_owner_id": "5",
		"run_attempt": "1", "run_id": "792", "run_number": "188", "sha": "c2d72f548424103f01ee1dc02889c1e2bff816b0", "workflow": "release.yaml",
		"workflow_ref": "octo/rocket/.forgejo/workflows/release.yaml@refs/heads/main",
	},
	"google-cloud-build": {
		"jti": nil, "nbf": nil, "sub": "112233445566778899001", "azp": "112233445566778899001",
		"email": "release@octo-project.iam.gserviceaccount.com", "email_verified": true,
	},
	"jenkins": {
		"jti": nil, "nbf": nil, "sub": "https://ci.example.org/job/rocket/job/main/", "build_number": 42,
	},
	"azure-pipelines": {
		"sub": "p://octo/rocket/release", "org_id": "6c1b0a52-8a51-4b0c-9d7e-2f9d1e0f1a2b", "prj_id": "7d2c1b63-9b62-4c1d-8e8f-3a0e2f1a2b3c",
		"def_id": "17", "rpo_id": "8e3d2c74-ac73-4d2e-9f90-4b1f3a2b3c4d", "rpo_uri": "https://dev.azure.com/octo/rocket/_git/rocket",
		"rpo_ver": "714a629c0b401fdce83e847fc9589983fc6f46bc", "rpo_ref": "refs/heads/main", "run_id": "9001",
		"aud": "api://AzureADTokenExchange",
	},
	"bitbucket": {
		"jti": nil, "nbf": nil, "sub": "{2e9e429c-7b8b-404f-8648-8c40c27c9ebd}:{0f1e2d3c-4b5a-4678-8796-a5b4c3d2e1f0}",
		"stepUuid": "{0f1e2d3c-4b5a-4678-8796-a5b4c3d2e1f0}", "branchName": "main", "workspaceUuid": "{7baee083-4f25-4a97-8a9a-0fde1b623b45}",
		"repositoryUuid": "{2e9e429c-7b8b-404f-8648-8c40c27c9ebd}", "pipelineUuid": "{5c6e3881-7804-40d8-be56-c4472a6a74f4}",
		"pipelineRunUuid": "{6d7f4992-8915-41e9-9f67-d5583b7b85a5}", "aud": []any{"ari:cloud:bitbucket::workspace/7baee083-4f25-4a97-8a9a-0fde1b623b45"},
	},
	"semaphore": {
		"sub":    "org:octo:project:936a5312-a3b8-4921-8b3f-2cec8baac574:repo:rocket:ref_type:branch:ref:refs/heads/main",
		"branch": "main", "pr_branch": "", "pr": "", "ref": "refs/heads/main", "ref_type": "branch", "tag": "", "repo": "rocket",
		"repo_slug": "octo/rocket", "org": "octo", "org_id": "d7dd33ad-9317-498c-9cc6-51c250749be7", "prj": "rocket",
		"prj_id": "1e1fcfb5-09c0-487e-b051-2d0b5514c42a", "wf_id": "1be81412-6ab8-4fc0-9d0d-7af33335a6ec",
		"ppl_id": "1e1fcfb5-09c0-487e-b051-2d0b5514c42b", "job_type": "pipeline_job", "job_id": "c117e453-1189-4eaf-b03a-dd6538eb49b2",
		"trg": "h:f-i:f", "aud": "https://octo.semaphoreci.com",
	},
	"generic": {
		"jti": nil, "nbf": nil, "sub": "7c5f1d2e-3a4b-4c5d-8e6f-7a8b9c0d1e2f", "namespace": "root", "pipeline": "rocket/release", "build": 7, "protected": true,
	},
}

// Claims gives the claims of a job of the CI that the provider table calls so,
// for those that have no function of their own here: iss and the times are
// [Issuer.Mint]'s. over replaces claims; a nil value leaves one out. It panics
// for a CI that it does not know.
func Claims(name string, over map[string]any) map[string]any {
	shape, ok := shapes[name]
	if !ok {
		panic("devissuer: no claims of " + name)
	}
	claims := maps.Clone(shape)
	overlay(claims, over)
	return claims
}

// GivenEnv is the environment of a job that was given its token before it runs,
// as on GitLab, Jenkins and wherever else the table's row takes it from there: a
// token with these claims in CFA_ID_TOKEN, beside what the CI is known by.
func (i *Issuer) GivenEnv(name string, claims map[string]any) ([]string, error) {
	known := map[string]string{"gitlab": "GITLAB_CI=true", "jenkins": "JENKINS_URL=https://ci.example.org/", "generic": "CI=true"}[name]
	if known == "" || ci.Find(name) == nil {
		return nil, fmt.Errorf("development issuer: jobs of %s are given no token", name)
	}
	token, err := i.Mint(claims)
	if err != nil {
		return nil, err
	}
	return []string{"CI=true", known, "CFA_ID_TOKEN=" + token}, nil
}

// Shapes are the CIs that [Claims] knows.
func Shapes() []string { return slices.Sorted(maps.Keys(shapes)) }

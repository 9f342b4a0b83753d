package service

// AWS: a code becomes credentials of a session, which the command gets. Tried out with
// the AWS CLI 1.45 against a server of a test. The code would be an argument, which
// every user of the machine could read; so it is read from standard input, as any
// argument's value can be. (Not by --cli-input-json: that file is read twice, and the
// second time a pipe is empty.)

import (
	"encoding/json"
	"errors"
	"regexp"
	"strconv"
	"time"
)

var aws = &Service{
	Name: "aws", Title: "AWS",
	Format: "digits:6", Retries: 0, Life: 30 * time.Second, // AWS takes each code once
	Login: &Login{Argv: awsArgv, Input: awsInput, Refused: regexp.MustCompile(`\(AccessDenied\).*MultiFactorAuthentication`), Vars: awsVars},
}

func awsArgv(env func(string) string) ([]string, error) {
	if env("AWS_MFA_SERIAL") == "" {
		return nil, errors.New("AWS_MFA_SERIAL is not set: the device's ARN, arn:aws:iam::<account>:mfa/<user>")
	}
	argv := []string{"aws", "sts", "get-session-token", "--output", "json", "--serial-number", env("AWS_MFA_SERIAL"), "--token-code", "file:///dev/stdin"}
	if d := env("AWS_MFA_DURATION"); d != "" {
		n, err := strconv.Atoi(d)
		if err != nil || n < 900 || n > 129600 {
			return nil, errors.New("AWS_MFA_DURATION is the session's length in seconds, 900 to 129600")
		}
		argv = append(argv, "--duration-seconds", strconv.Itoa(n))
	}
	return argv, nil
}

// awsInput has no line feed: it would be part of the code.
func awsInput(code string) string { return code }

// awsVars reads {"Credentials": {"AccessKeyId", "SecretAccessKey", "SessionToken"}}.
func awsVars(out []byte) (vars, secrets []string, err error) {
	var v struct {
		Credentials struct {
			AccessKeyID     string `json:"AccessKeyId"`
			SecretAccessKey string
			SessionToken    string
		}
	}
	c := &v.Credentials
	if json.Unmarshal(out, &v) != nil || c.AccessKeyID == "" || c.SecretAccessKey == "" || c.SessionToken == "" {
		return nil, nil, errors.New("it ended well and printed no credentials")
	}
	return []string{
		"AWS_ACCESS_KEY_ID=" + c.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + c.SecretAccessKey, "AWS_SESSION_TOKEN=" + c.SessionToken,
	}, []string{c.SecretAccessKey, c.SessionToken}, nil
}

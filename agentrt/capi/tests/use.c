/* Uses every function of the C interface once. */
#include "agent_kernel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>

static void check(int returned, char *error, const char *what) {
  if (returned != 0) {
    printf("%s: %s\n", what, error ? error : "?");
    exit(1);
  }
}

int main(int argc, char **argv) {
  char *error = NULL, *json = NULL;
  ak_policy *policy = NULL;
  ak_process *process = NULL;
  int code = -1;
  if (argc < 2) return 2;

  if (ak_policy_read("version = 1\n[limits]\nmemorry = 1\n", &policy, &error) == 0) return 3;
  printf("%s\n", error);
  ak_string_free(error);
  error = NULL;

  check(ak_policy_read("version = 1\nlevel = \"L2\"\n", &policy, &error), error, "policy");
  check(ak_explain(policy, "read", "/root/.ssh/id", &json, &error), error, "explain");
  if (!strstr(json, "\"allowed\":false")) return 4;
  ak_string_free(json);
  json = NULL;

  const char *command[] = {"sh", "-c", "echo from inside; exit 5", NULL};
  const char *environment[] = {"PATH=/usr/bin:/bin", NULL};
  fflush(stdout);
  check(ak_spawn(argv[1], policy, command, environment, 0, 1, 2, &process, &error), error, "spawn");
  if (ak_pid(process) <= 0) return 5;
  check(ak_wait(process, &code, &json, &error), error, "wait");
  if (code != 5 || !strstr(json, "denials")) return 6;
  ak_string_free(json);
  ak_policy_free(policy);

  const char *confined = getuid() == 0 ? "version = 1\nlevel = \"L1\"\n[identity]\nuid = 4321\ngid = 4321\n"
                                       : "version = 1\nlevel = \"L1\"\n";
  check(ak_policy_read(confined, &policy, &error), error, "policy");
  check(ak_enter(policy, &json, &error), error, "enter");
  if (!strstr(json, "landlock files")) return 7;
  if (open("/root", O_RDONLY) >= 0 || open("/tmp", O_RDONLY) >= 0) return 8;
  ak_string_free(json);
  json = ak_report();
  if (!json || !strstr(json, "\"no_new_privileges\":true")) return 9;
  ak_string_free(json);
  ak_policy_free(policy);
  printf("all is well\n");
  return 0;
}

// Before anything: this browser has to be let in.

import { Button, Code, Paper, PasswordInput, Stack, Text, Title } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";

import { signIn } from "../api/client";
import { Trouble } from "../parts/basics";

export function SignIn() {
  const client = useQueryClient();
  const [token, setToken] = useState("");
  const enter = useMutation({
    mutationFn: signIn,
    onSuccess: () => client.invalidateQueries({ queryKey: ["session"] }),
  });
  const isUsed = new URLSearchParams(window.location.search).has("used");
  useEffect(() => {
    document.title = "Sign in – Archivist";
  }, []);
  return (
    <main style={{ maxWidth: 480, margin: "8vh auto", padding: 16 }}>
      <Paper withBorder p="xl">
        <Stack>
          <img src="/ui/icon.svg" alt="" width={48} height={48} />
          <Title order={1} size="h3">
            Let this browser in
          </Title>
          {isUsed && (
            <Trouble error="That link was used already, or its time is over. Make another one." />
          )}
          <Text>
            On this machine, run <Code>archivist ui</Code> and open the link that it prints. The
            link works once.
          </Text>
          <form
            onSubmit={(event) => {
              event.preventDefault();
              enter.mutate(token);
            }}
          >
            <Stack gap="sm">
              <PasswordInput
                label="Or paste the token"
                description="The content of the file api-token in the data directory."
                value={token}
                onChange={(event) => setToken(event.currentTarget.value)}
                autoComplete="off"
              />
              <Trouble error={enter.error} />
              <Button
                type="submit"
                variant="filled"
                loading={enter.isPending}
                disabled={!token.trim()}
              >
                Sign in
              </Button>
            </Stack>
          </form>
        </Stack>
      </Paper>
    </main>
  );
}

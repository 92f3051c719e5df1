/* What Redfish documents say, as vendors write them: reset types told in the action, in an ActionInfo, or nowhere;
 * relative, absolute and foreign targets; several systems; watts in either place. And Wake-on-LAN's packet, byte by
 * byte, as it arrives on the loopback, three times. The certificate's fingerprint as people write it.
 * links: spw_providers */
#include "base/fetch.h"
#include "http_peer.h"
#include "providers/redfish_doc.h"
#include "providers/wol.h"
#include "test.h"

static cJSON *parse(const char *text)
{
    struct error e;
    cJSON *doc = NULL;
    CHECK_INT(json_parse(text, strlen(text), 32, &doc, &e), RC_OK);
    return doc;
}

static void resets_are_chosen(void)
{
    const unsigned all =
        REDFISH_ON | REDFISH_FORCE_ON | REDFISH_GRACEFUL_SHUTDOWN | REDFISH_FORCE_OFF | REDFISH_PUSH_POWER_BUTTON;
    CHECK_STR(redfish_reset_name(redfish_reset_choose(all, true, false)), "On");
    CHECK_STR(redfish_reset_name(redfish_reset_choose(all & ~REDFISH_ON, true, true)), "ForceOn");
    CHECK_STR(redfish_reset_name(redfish_reset_choose(REDFISH_PUSH_POWER_BUTTON, true, false)), "PushPowerButton");
    CHECK_STR(redfish_reset_name(redfish_reset_choose(all, false, true)), "GracefulShutdown");
    CHECK_STR(redfish_reset_name(redfish_reset_choose(all, false, false)), "ForceOff");
    CHECK_STR(redfish_reset_name(redfish_reset_choose(REDFISH_FORCE_OFF, false, true)), "ForceOff");
    CHECK_STR(redfish_reset_name(redfish_reset_choose(REDFISH_PUSH_POWER_BUTTON | REDFISH_FORCE_OFF, false, true)),
              "PushPowerButton");
    CHECK_INT(redfish_reset_choose(REDFISH_FORCE_OFF, true, false), 0);
    CHECK_INT(redfish_reset_choose(0, false, true), 0);
}

static void systems_are_read(void)
{
    struct redfish_system s;
    cJSON *doc = parse("{\"PowerState\":\"On\",\"Actions\":{\"#ComputerSystem.Reset\":{"
                       "\"target\":\"/redfish/v1/Systems/1/Actions/ComputerSystem.Reset\","
                       "\"ResetType@Redfish.AllowableValues\":[\"On\",\"ForceOff\",\"Nmi\",7,\"GracefulShutdown\"]}},"
                       "\"Links\":{\"Chassis\":[{\"@odata.id\":\"/redfish/v1/Chassis/1U\"}]}}");
    redfish_read_system(doc, "/redfish/v1/Systems/1", &s);
    CHECK_INT(s.power, POWER_IS_ON);
    CHECK_STR(s.target, "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset");
    CHECK_INT(s.allowed, REDFISH_ON | REDFISH_FORCE_OFF | REDFISH_GRACEFUL_SHUTDOWN);
    CHECK_STR(s.chassis, "/redfish/v1/Chassis/1U");
    cJSON_Delete(doc);

    doc = parse("{\"PowerState\":\"PoweringOff\",\"Actions\":{\"#ComputerSystem.Reset\":{"
                "\"target\":\"https://bmc.example/redfish/v1/Systems/1/Reset\","
                "\"@Redfish.ActionInfo\":\"ResetActionInfo\"}}}");
    redfish_read_system(doc, "/redfish/v1/Systems/1", &s);
    CHECK_INT(s.power, POWER_IS_UNKNOWN);
    CHECK_STR(s.word, "PoweringOff");
    CHECK_STR(s.target, "/redfish/v1/Systems/1/Reset"); /* the controller we know, whatever it calls itself */
    CHECK_STR(s.info, "/redfish/v1/Systems/1/ResetActionInfo");
    CHECK_INT(s.allowed, 0);
    cJSON_Delete(doc);

    static const char *const strange[] = {"{}",
                                          "[]",
                                          "{\"PowerState\":null,\"Actions\":[]}",
                                          "{\"PowerState\":3,\"Links\":{\"Chassis\":{}}}",
                                          "{\"Actions\":{\"#ComputerSystem.Reset\":{\"target\":\"\"}}}",
                                          "{\"Actions\":{\"#ComputerSystem.Reset\":{\"target\":\"http://no-path\"}}}",
                                          "{\"Actions\":{\"#ComputerSystem.Reset\":{\"target\":\"/a b\"}}}"};
    for (size_t i = 0; i < sizeof(strange) / sizeof(strange[0]); i++) {
        doc = parse(strange[i]);
        redfish_read_system(doc, "/redfish/v1/Systems/1", &s);
        CHECK_INT(s.power, POWER_IS_UNKNOWN);
        CHECK_STR(s.target, "");
        cJSON_Delete(doc);
    }
    doc = parse("{\"Parameters\":[{\"Name\":\"Other\",\"AllowableValues\":[\"On\"]},"
                "{\"Name\":\"ResetType\",\"AllowableValues\":[\"ForceOn\",\"PushPowerButton\"]}]}");
    CHECK_INT(redfish_read_action_info(doc), REDFISH_FORCE_ON | REDFISH_PUSH_POWER_BUTTON);
    cJSON_Delete(doc);
}

static void members_are_found(void)
{
    char path[REDFISH_PATH_MAX];
    struct error e;
    const char *at = "/redfish/v1/Systems";
    cJSON *doc = parse("{\"Members\":[{\"@odata.id\":\"/redfish/v1/Systems/437XR/\"}]}");
    CHECK_INT(redfish_read_member(doc, at, NULL, path, &e), RC_OK);
    CHECK_STR(path, "/redfish/v1/Systems/437XR");
    CHECK_INT(redfish_read_member(doc, at, "438", path, &e), RC_INVALID);
    CHECK_STR(e.message, "the controller has no system '438'; it has 437XR");
    cJSON_Delete(doc);
    doc = parse("{\"Members\":[{\"@odata.id\":\"/redfish/v1/Systems/a\"},{\"@odata.id\":\"/redfish/v1/Systems/b\"}]}");
    CHECK_INT(redfish_read_member(doc, at, NULL, path, &e), RC_INVALID);
    CHECK_STR(e.message, "the controller has several systems (a, b); say which one in bmc_system");
    CHECK_INT(redfish_read_member(doc, at, "b", path, &e), RC_OK);
    CHECK_STR(path, "/redfish/v1/Systems/b");
    cJSON_Delete(doc);
    doc = parse("{\"Members\":[]}");
    CHECK_INT(redfish_read_member(doc, at, NULL, path, &e), RC_INVALID);
    cJSON_Delete(doc);
}

static void watts_are_read(void)
{
    static const struct {
        const char *text;
        int64_t milliwatts;
    } cases[] = {
        {"{\"PowerWatts\":{\"Reading\":412.5}}", 412500},
        {"{\"PowerControl\":[{\"PowerConsumedWatts\":344}]}", 344000},
        {"{\"PowerControl\":[{\"PowerConsumedWatts\":null}]}", -1},
        {"{\"PowerControl\":[]}", -1},
        {"{\"PowerWatts\":{\"Reading\":-3}}", -1},
        {"{\"PowerWatts\":{\"Reading\":1e300}}", -1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cJSON *doc = parse(cases[i].text);
        CHECK_INT(redfish_read_milliwatts(doc), cases[i].milliwatts);
        cJSON_Delete(doc);
    }
    char text[REDFISH_TEXT_MAX];
    cJSON *doc = parse("{\"error\":{\"code\":\"x\",\"message\":\"general\",\"@Message.ExtendedInfo\":["
                       "{\"MessageId\":\"Base.1.8.ActionParameterNotSupported\",\"Message\":\"no\\nOn here\"}]}}");
    redfish_read_error(doc, text);
    CHECK_STR(text, "no On here");
    cJSON_Delete(doc);
    CHECK(redfish_is_session_limit("{\"MessageId\":\"Base.1.13.SessionLimitExceeded\"}"));
}

static void addresses_are_parsed(void)
{
    static const char *const good[] = {"00:25:90:ab:cd:ef", "00-25-90-AB-CD-EF", "002590abcdef"};
    static const char *const bad[] = {"",       "00:25:90:ab:cd",    "00:25:90:ab:cd:ef:00", "00:25-90:ab:cd:ef",
                                      "g0:...", "01:00:5e:00:00:01", "00:00:00:00:00:00"};
    unsigned char mac[6], secure[WOL_SECURE_MAX];
    struct error e;
    int n;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        CHECK_INT(wol_parse_mac(good[i], mac, &e), RC_OK);
        CHECK(memcmp(mac, "\x00\x25\x90\xab\xcd\xef", 6) == 0);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_INT(wol_parse_mac(bad[i], mac, &e), RC_INVALID);
    CHECK_INT(wol_parse_secure("192.168.1.7", secure, &n, &e), RC_OK);
    CHECK_INT(n, 4);
    CHECK(memcmp(secure, "\xc0\xa8\x01\x07", 4) == 0);
    CHECK_INT(wol_parse_secure("01:02:03:04:05:06", secure, &n, &e), RC_OK);
    CHECK_INT(n, 6);
    CHECK_INT(wol_parse_secure("hunter2", secure, &n, &e), RC_INVALID);
    CHECK(!strstr(e.message, "hunter2"));
    unsigned char pin[32];
    CHECK_INT(fetch_pin_parse("sha256:0011223344556677889900112233445566778899001122334455667788990011", pin, &e),
              RC_OK);
    CHECK_INT(fetch_pin_parse("00:11:22:33:44:55:66:77:88:99:00:11:22:33:44:55:66:77:88:99:00:11:22:33:44:55:66:77:88:"
                              "99:00:Ff",
                              pin, &e),
              RC_OK);
    CHECK_INT(pin[31], 0xff);
    CHECK_INT(fetch_pin_parse("00:11", pin, &e), RC_INVALID);
    CHECK_INT(fetch_pin_parse("", pin, &e), RC_INVALID);
}

static struct event_base *loop;
static int volleys;
static enum rc volley_rc;

static void on_sent(enum rc rc, const struct error *e, void *arg)
{
    (void)e;
    (void)arg;
    volleys++;
    volley_rc = rc;
}

static void packets_arrive_thrice(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    socklen_t n = sizeof(a);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    CHECK_INT(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    getsockname(fd, (struct sockaddr *)&a, &n);
    struct wol_target t = {.mac = {0x00, 0x25, 0x90, 0xab, 0xcd, 0xef},
                           .secure = {1, 2, 3, 4, 5, 6},
                           .n_secure = 6,
                           .broadcast = "127.255.255.255", /* the loopback's own broadcast */
                           .source = "127.0.0.1",
                           .port = ntohs(a.sin_port)};
    struct wol_volley w = {0};
    int64_t begin = peer_ms();
    volleys = 0;
    wol_start(&w, loop, &t, on_sent, NULL);
    CHECK_INT(volleys, 0);
    CHECK(peer_wait(loop, &volleys, 1, 3000));
    CHECK_INT(volley_rc, RC_OK);
    CHECK(peer_ms() - begin >= 2 * WOL_PAUSE_MS - 20);
    for (int i = 0; i < WOL_TIMES; i++) {
        unsigned char got[256];
        CHECK_INT(recv(fd, got, sizeof(got), 0), WOL_BYTES_MAX);
        for (int k = 0; k < 6; k++)
            CHECK_INT(got[k], 0xff);
        for (int k = 0; k < 16; k++)
            CHECK(memcmp(got + 6 + (ptrdiff_t)k * 6, t.mac, 6) == 0);
        CHECK(memcmp(got + WOL_BYTES, t.secure, 6) == 0);
    }
    char more[8];
    CHECK(recv(fd, more, sizeof(more), 0) < 0);
    t.n_secure = 0;
    unsigned char packet[WOL_BYTES_MAX];
    CHECK_INT(wol_packet(&t, packet), 102);
    wol_start(&w, loop, &t, on_sent, NULL);
    wol_stop(&w);
    snprintf(t.broadcast, sizeof(t.broadcast), "nowhere");
    wol_start(&w, loop, &t, on_sent, NULL);
    CHECK(peer_wait(loop, &volleys, 2, 3000));
    CHECK_INT(volley_rc, RC_INVALID);
    close(fd);
}

int main(void)
{
    loop = event_base_new();
    TEST(resets_are_chosen);
    TEST(systems_are_read);
    TEST(members_are_found);
    TEST(watts_are_read);
    TEST(addresses_are_parsed);
    TEST(packets_arrive_thrice);
    event_base_free(loop);
    return TEST_RESULT();
}

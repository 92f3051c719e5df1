/* XML answers: what an EC2 answer looks like as a tree, every kind of damage, every bound, and no entity of any kind.
 * links: spw_providers */
#include "providers/xml.h"

#include "tests/unit/test.h"

static const char ANSWER[] = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                             "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\n"
                             "  <requestId>8f7724cf</requestId>\n"
                             "  <reservationSet><item><instancesSet>\n"
                             "    <item><instanceId>i-1</instanceId><tagSet/><empty></empty></item>\n"
                             "    <other/>\n"
                             "    <item><instanceId>i-&lt;2&#x20AC;&gt;</instanceId></item>\n"
                             "  </instancesSet></item></reservationSet>\n"
                             "</DescribeInstancesResponse>";

static enum rc parse(struct xml *x, const char *text, struct error *e)
{
    return xml_parse(x, text, strlen(text), e);
}

static void reads_an_answer(void)
{
    struct xml x;
    struct error e;
    int n = 0;
    CHECK_INT(parse(&x, ANSWER, &e), RC_OK);
    CHECK_STR(x.root->name, "DescribeInstancesResponse");
    CHECK_STR(x.root->text, "");
    CHECK_STR(xml_text(x.root, "requestId"), "8f7724cf");
    xml_each(item, x.root, "reservationSet/item/instancesSet/item")
        CHECK_STR(xml_text(item, "instanceId"), n++ == 0 ? "i-1" : "i-<2\xe2\x82\xac>");
    CHECK_INT(n, 2);
    CHECK_STR(xml_text(x.root, "reservationSet/item/instancesSet/item/empty"), "");
    CHECK(xml_find(x.root, "reservationSet/item/instancesSet/item/tagSet") != NULL);
    CHECK(xml_find(x.root, "reservationSet/item/instancesSet/item/tag") == NULL);
    CHECK(xml_find(NULL, "a") == NULL);
    CHECK_STR(xml_text(NULL, "a"), "");
    xml_fini(&x);
    xml_fini(&x);
}

static void prefixes_and_cdata(void)
{
    struct xml x;
    struct error e;
    CHECK_INT(parse(&x, "<a:r xmlns:a=\"u\"><a:v q=\"1\">x<!-- c --><![CDATA[<y>]]>z</a:v></a:r>", &e), RC_OK);
    CHECK_STR(x.root->name, "r");
    CHECK_STR(xml_text(x.root, "v"), "x<y>z");
    xml_fini(&x);
}

/* Every beginning of a good answer is refused, and so is every answer with a byte changed to one that cannot be. */
static void damage(void)
{
    struct xml x;
    struct error e;
    char text[sizeof ANSWER];
    for (size_t n = 0; n < sizeof ANSWER - 1; n++)
        CHECK(xml_parse(&x, ANSWER, n, &e) == RC_INVALID && x.root == NULL);
    for (size_t i = 0; i < sizeof ANSWER - 1; i++) {
        memcpy(text, ANSWER, sizeof text);
        text[i] = '\x01';
        CHECK(xml_parse(&x, text, sizeof text - 1, &e) == RC_INVALID && x.root == NULL);
        text[i] = '\xff';
        CHECK(xml_parse(&x, text, sizeof text - 1, &e) == RC_INVALID && x.root == NULL);
    }
    const char *bad[] = {"",          " ",        "no", "<a>", "<a></b>", "<a/><b/>", "<a>&nope;</a>", "<a>&#0;</a>",
                         "<a b></a>", "{\"a\":1}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_INT(parse(&x, bad[i], &e), RC_INVALID);
        CHECK(x.root == NULL && strstr(e.message, "line") != NULL);
    }
}

static void no_entities(void)
{
    struct xml x;
    struct error e;
    const char *laughs = "<!DOCTYPE a [<!ENTITY b \"ha\"><!ENTITY c \"&b;&b;&b;\">]><a>&c;</a>";
    const char *file = "<!DOCTYPE a [<!ENTITY f SYSTEM \"file:///etc/passwd\">]><a>&f;</a>";
    const char *outside = "<!DOCTYPE a SYSTEM \"http://127.0.0.1/x.dtd\"><a/>";
    CHECK_INT(parse(&x, laughs, &e), RC_INVALID);
    CHECK(strstr(e.message, "document type") != NULL);
    CHECK_INT(parse(&x, file, &e), RC_INVALID);
    CHECK_INT(parse(&x, outside, &e), RC_INVALID);
}

static void bounds(void)
{
    struct strbuf b;
    struct xml x;
    struct error e;
    strbuf_init(&b, 64 << 20);
    for (int i = 0; i < XML_DEPTH_MAX; i++)
        strbuf_puts(&b, "<a>");
    for (int i = 0; i < XML_DEPTH_MAX; i++)
        strbuf_puts(&b, "</a>");
    CHECK_INT(xml_parse(&x, b.data, b.len, &e), RC_OK);
    xml_fini(&x);
    strbuf_clear(&b);
    for (int i = 0; i <= XML_DEPTH_MAX; i++)
        strbuf_puts(&b, "<a>");
    CHECK_INT(xml_parse(&x, b.data, b.len, &e), RC_FULL);
    strbuf_clear(&b);
    strbuf_puts(&b, "<r>");
    for (int i = 0; i < XML_NODES_MAX; i++)
        strbuf_puts(&b, "<a/>");
    strbuf_puts(&b, "</r>");
    CHECK_INT(xml_parse(&x, b.data, b.len, &e), RC_FULL);
    strbuf_fini(&b);
}

int main(void)
{
    TEST(reads_an_answer);
    TEST(prefixes_and_cdata);
    TEST(damage);
    TEST(no_entities);
    TEST(bounds);
    return TEST_RESULT();
}
